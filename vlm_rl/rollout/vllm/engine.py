"""vLLM inside the trainer's process: `class_path: vlm_rl.rollout.VLLMEngine`.

What vLLM changes in its host is restored: random states, torch's thread setter, the environment
except vLLM's own variables. The trainer's autocast is off inside. With one GPU for both, `sleep`
frees vLLM's memory for the trainer between rollouts.

With several ranks, each has its own vLLM for its share of the prompts. vLLM would use the trainer's
process group as its own, and destroy it at its end. So its model then runs in a child, as its
tensor-parallel workers always do, and weights go through a socket.
"""

import gc
import os
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlm_rl import ranks
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.parts import is_out_of_memory
from vlm_rl.records import Completion, Prompt
from vlm_rl.rollout.faults import EngineError, EngineFault, refusal
from vlm_rl.rollout.sampling import Sampling
from vlm_rl.rollout.vllm import environment
from vlm_rl.rollout.vllm.base import VLLMBase
from vlm_rl.rollout.vllm.protocol import Answer, RawCompletion, Request
from vlm_rl.rollout.vllm.restarts import agreed
from vlm_rl.rollout.vllm.weight_sender import WeightSender
from vlm_rl.rollout.watchdog import Watchdog


class VLLMEngine(VLLMBase):
    """vLLM in the trainer's process.

    Its workers are children if `tensor_parallel_size` is above 1, or if the trainer has a process
    group; each rank then needs that many GPUs. `sleep` frees vLLM's GPU memory after each rollout
    and takes it back for the next. Other arguments: see VLLMBase. A hang cannot be undone inside a
    process: the run ends with exit status 75, and the same command resumes from the last
    checkpoint.
    """

    def __init__(self, *, sleep: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sleep = sleep
        self._llm: Any = None
        self._in_child = False
        self._asleep: set[str] = set()
        self._adapter: Any = None

    def start(self, policy: Policy, encoder: PromptEncoder, sampling: Sampling) -> None:
        self._in_child = ranks.have_group()  # before vLLM, which may make a group of its own
        super().start(policy, encoder, sampling)

    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        groups = super().generate(prompts, group_size=group_size, sampling=sampling, seed=seed)
        if self.sleep:
            # not repeated after a restart: a new engine stays awake until its next rollout
            self._run(lambda: agreed(self._put_to_sleep), after_restart=lambda: None)
        return groups

    def _check_placement(self, world_size: int, num_nodes: int, devices_per_node: int) -> None:
        needed, present = devices_per_node * self.tensor_parallel_size, torch.cuda.device_count()
        if world_size > 1 and present and needed > present:
            raise ValueError(
                f"engine.init_args.tensor_parallel_size={self.tensor_parallel_size} needs {needed} "
                f"GPUs for the {devices_per_node} ranks of this node, which has {present}; lower "
                "it, or take vlm_rl.rollout.VLLMServer, which all ranks share"
            )

    def _launch(self) -> WeightSender:
        # the engine's loop in this process; vLLM reads its settings whenever it needs them
        os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} | environment.settings()
        place: dict[str, Any] = {"distributed_executor_backend": "mp"} if self._in_child else {}
        variables = {"PYTHONPATH": environment.python_path(self.folder)}
        if self._in_child:
            variables |= environment.own_gpus(self.tensor_parallel_size)
            # vLLM would bind the workers of all ranks to the same cores
            variables |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        try:
            with self._vllm(self.startup_timeout_s), _child_environment(variables):
                from vllm import LLM

                _leave_room()
                # a CPU has no memory to free, but goes through the same calls
                frees_memory = self.sleep and torch.cuda.is_available()
                self._llm = LLM(**self.arguments(), enable_sleep_mode=frees_memory, **place)
        except EngineError as error:
            # vLLM took the same arguments before, and takes them again once memory is free
            raise EngineFault(str(error)) if self._restarts_in_a_row else error from None
        return WeightSender(
            self,
            num_workers=self.tensor_parallel_size,
            host="127.0.0.1" if self._in_child or self.tensor_parallel_size > 1 else "",
            dtype=getattr(torch, self.precision),
            chunk_bytes=self.chunk_bytes,
            timeout_s=self.silence_timeout_s,
        )

    def _stop(self) -> None:
        if self._llm is not None:
            # now, not when it is collected: that would end the process groups of the next one
            with suppress(Exception):  # it may be broken in any way
                client = self._llm.llm_engine.engine_core
                if self._in_child:
                    client._finalizer.detach()  # it too would destroy the trainer's group
                    client.engine_core.model_executor.shutdown()
                    gc.unfreeze()  # vLLM froze what it holds at its start
                else:
                    client.shutdown()
        self._llm = None
        self._asleep.clear()
        gc.collect()

    def init_weight_transfer_engine(self, init_info: Mapping[str, Any]) -> None:
        with self._vllm():
            self._llm.init_weight_transfer_engine({"init_info": dict(init_info)})

    def start_weight_update(self) -> None:
        with self._vllm():
            self._llm.start_weight_update()

    def update_weights_chunk(self, update_info: Mapping[str, Any]) -> None:
        with self._vllm():
            self._llm.update_weights({"update_info": dict(update_info)})

    def finish_weight_update(self) -> None:
        with self._vllm():
            self._llm.finish_weight_update()

    def _ask(self, requests: Sequence[Request]) -> list[Answer]:
        prompts = [_prompt(request) for request in requests]
        parameters = [_parameters(request) for request in requests]
        with self._vllm() as watchdog:
            self._wake("weights", "kv_cache")
            with _each_step(self._llm.llm_engine, watchdog.touch):
                outputs = self._llm.generate(
                    prompts, parameters, use_tqdm=False, lora_request=self._adapter
                )
        return [
            Answer(
                list(output.prompt_token_ids),
                [
                    RawCompletion(list(c.token_ids), list(c.logprobs.logprobs), c.finish_reason)
                    for c in output.outputs
                ],
            )
            for output in outputs
        ]

    def _load_adapter(self, number: int, folder: Path) -> None:
        from vllm.lora.request import LoRARequest

        self._adapter = LoRARequest(f"policy-{number}", number, str(folder))

    def _put_to_sleep(self) -> None:
        with self._vllm():
            self._llm.sleep(level=1)
        self._asleep = {"weights", "kv_cache"}

    def _wake(self, *parts: str) -> None:
        due = [part for part in parts if part in self._asleep]
        if due:  # vLLM must not wake a part that is awake
            _leave_room()
            self._llm.wake_up(tags=due)
            self._asleep -= set(due)

    def _before_weights(self) -> None:
        with self._vllm():
            self._wake("weights")  # copies the old weights back now, not over new ones

    def _memory_advice(self) -> str:
        share, number = self.gpu_memory_utilization, self.max_concurrent
        return (
            f"; try engine.init_args.gpu_memory_utilization={share / 2:g} (now {share:g}), or "
            f"engine.init_args.max_concurrent={max(1, number // 2)} (now {number})"
        )

    def _empty_caches(self) -> None:
        with self._vllm():
            if not self._llm.reset_prefix_cache():
                raise EngineFault("its prefix cache could not be emptied")
            self._llm.reset_mm_cache()
            self._llm.llm_engine.reset_encoder_cache()

    @contextmanager
    def _vllm(self, limit_s: float | None = None) -> Iterator[Watchdog]:
        """Surround every call of vLLM, to restore the host and to turn errors into ours.

        Whatever fails is an EngineFault, except what vLLM refuses. Silence of `limit_s` ends this
        process.
        """
        limit = self.silence_timeout_s if limit_s is None else limit_s
        with _host_unchanged(), Watchdog(limit, "the rollout engine") as watchdog:
            try:
                yield watchdog
            except EngineError:
                raise
            except Exception as error:  # a failed step of vLLM raises whatever its layers raise
                from vllm.exceptions import VLLMClientError

                if isinstance(error, ValueError | VLLMClientError):
                    raise refusal(str(error)) from error
                advice = self._memory_advice() if is_out_of_memory(error) else ""
                raise EngineFault(f"{type(error).__name__}: {error}{advice}") from error


def _leave_room() -> None:
    """Free what the trainer's allocator holds in reserve: vLLM may be another process."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


@contextmanager
def _each_step(engine: Any, done: Callable[[], None]) -> Iterator[None]:
    """Call `done` after every step of the engine."""
    step = engine.step

    def watched() -> Any:
        outputs = step()
        done()
        return outputs

    engine.step = watched
    try:
        yield
    finally:
        del engine.step


def _prompt(request: Request) -> dict[str, Any]:
    """Build a prompt of unexpanded ids, since vLLM would silently expand expanded ones again."""
    prompt: dict[str, Any] = {"prompt_token_ids": request.prompt.unexpanded_ids.tolist()}
    if request.prompt.images:
        prompt["multi_modal_data"] = {"image": list(request.prompt.images)}
    return prompt


def _parameters(request: Request) -> Any:
    from vllm import SamplingParams

    bias = {int(token): value for token, value in request.parameters["logit_bias"].items()}
    return SamplingParams(**request.parameters | {"logit_bias": bias, "flat_logprobs": True})


@contextmanager
def _child_environment(variables: dict[str, str]) -> Iterator[None]:
    """Replace the environment for vLLM's children, which are not ranks of the run. Afterwards only
    what vLLM reads itself stays."""
    before = dict(os.environ)
    inside = environment.without_launcher(before) | variables
    os.environ.clear()
    os.environ.update(inside)
    try:
        yield
    finally:
        own = {name: value for name, value in os.environ.items() if name.startswith("VLLM_")}
        os.environ.clear()
        os.environ.update(before | own)


@contextmanager
def _host_unchanged() -> Iterator[None]:
    """Restore random states and torch's thread setter, and switch autocast off inside.

    vLLM reseeds the random states, draws from them even if each request has a seed, and replaces
    the setter. It computes in the precision of its weights.
    """
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    on_gpu = torch.cuda.is_available()
    gpu_states = torch.cuda.get_rng_state_all() if on_gpu else []
    set_num_threads = torch.set_num_threads
    try:
        with (
            warnings.catch_warnings(action="ignore", category=FutureWarning),
            torch.autocast("cuda" if on_gpu else "cpu", enabled=False),
        ):
            yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if on_gpu:
            torch.cuda.set_rng_state_all(gpu_states)
        torch.set_num_threads = set_num_threads
