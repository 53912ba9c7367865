"""What both ways of running vLLM share: exchange and proof of weights, checked answers, restarts.

vLLM holds its own copy of the weights, so that an engine goes through these states: launched
without weights; after `_exchange` with the policy's; proved once, block by block, to compute what
the policy computes; and after every later exchange compared with it on the probe. With several
processes all go through these together, whichever of their engines fails.
"""

import os
import tempfile
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

import torch
from torch import Tensor

import vlm_rl
from vlm_rl import ranks
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.distributed.strategies import whole_weights
from vlm_rl.model.lora import save_adapter
from vlm_rl.model.policy import Policy
from vlm_rl.model.weights import is_adapter
from vlm_rl.records import Completion, Prompt
from vlm_rl.rollout.engine import STOP_TOKENS, Engine, Sampling
from vlm_rl.rollout.faults import EngineFault, EngineGaveUp, EngineMismatch
from vlm_rl.rollout.vllm.agreement import agreed
from vlm_rl.rollout.vllm.plugin import NAME
from vlm_rl.rollout.vllm.probe import Probe
from vlm_rl.rollout.vllm.protocol import Answer, Request, Vocabulary
from vlm_rl.rollout.vllm.weight_check import compare, prove_blocks
from vlm_rl.rollout.vllm.weight_sender import WeightSender

Precision = Literal["float32", "bfloat16"]

TOLERANCE: dict[Precision, float] = {"float32": 1e-4, "bfloat16": 5e-2}
"""Mean |difference| of the probe's log-probabilities that rounding may cause, in nats. Measured on
tiny models: 5e-7 in float32, 7e-3 in bfloat16. What one update of training changes can be less:
that weights arrive is proved at the start, this notices what breaks grossly later."""

ADAPTER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM has kernels for; a smaller adapter goes with the next one."""


class VLLMBase(Engine):
    """An engine of vLLM.

    `precision` is that of vLLM's weights (default: bfloat16 on a GPU, else float32).
    `max_concurrent` completions are decoded side by side. `kv_cache_gib` is the memory for keys and
    values where it is not a share of a GPU (a CPU: 1 GiB by default). `max_images` is the largest
    number of images in a prompt. Weights travel in chunks of at most `chunk_mib`. An engine that is
    not up after `startup_timeout_s` counts as dead, one that has done nothing for
    `silence_timeout_s` as hung; after `max_restarts` restarts in a row without an answer the run
    ends. `probe_tolerance` replaces the
    precision's own. LoRA adapters (peft) are merged on their way to the engine; with
    `adapter_rank`, the largest rank, it keeps the base and gets the adapter alone at each update.

    With several processes each calls every method, at the same time as the others; a failure of one
    engine is a restart in a row on all of them.
    """

    def __init__(
        self,
        *,
        precision: Precision | None = None,
        tensor_parallel_size: int = 1,
        max_concurrent: int = 256,
        gpu_memory_utilization: float = 0.5,
        kv_cache_gib: float | None = None,
        max_images: int = 8,
        chunk_mib: int = 512,
        startup_timeout_s: float = 1800.0,
        silence_timeout_s: float = 600.0,
        max_restarts: int = 3,
        probe_tolerance: float | None = None,
        adapter_rank: int = 0,
    ) -> None:
        name = type(self).__name__
        on_gpu = torch.cuda.is_available()
        counts = {
            "tensor_parallel_size": tensor_parallel_size,
            "max_concurrent": max_concurrent,
            "max_images": max_images,
            "chunk_mib": chunk_mib,
        }
        for argument, count in counts.items():
            if count < 1:
                raise ValueError(f"{name}.{argument} must be >= 1, got {count}")
        if not 0 < gpu_memory_utilization < 1:
            raise ValueError(
                f"{name}.gpu_memory_utilization must be in (0, 1), got {gpu_memory_utilization}"
            )
        limits = {"startup_timeout_s": startup_timeout_s, "silence_timeout_s": silence_timeout_s}
        for argument, seconds in limits.items():
            if not seconds > 0:
                raise ValueError(f"{name}.{argument} must be > 0, got {seconds}")
        if max_restarts < 0:
            raise ValueError(f"{name}.max_restarts must be >= 0, got {max_restarts}")
        self.precision: Precision = precision or ("bfloat16" if on_gpu else "float32")
        self.tensor_parallel_size = tensor_parallel_size
        self.max_concurrent = max_concurrent
        self.gpu_memory_utilization = gpu_memory_utilization
        self.kv_cache_gib = 1.0 if kv_cache_gib is None and not on_gpu else kv_cache_gib
        self.max_images = max_images
        self.chunk_bytes = chunk_mib << 20
        self.startup_timeout_s = startup_timeout_s
        self.silence_timeout_s = silence_timeout_s
        self.max_restarts = max_restarts
        self.probe_tolerance = TOLERANCE[self.precision]
        if probe_tolerance is not None:
            self.probe_tolerance = probe_tolerance
        if not 0 <= adapter_rank <= ADAPTER_RANKS[-1]:
            raise ValueError(
                f"{name}.adapter_rank must be 0 to {ADAPTER_RANKS[-1]}, got {adapter_rank}"
            )
        self.adapter_rank = adapter_rank
        self._adapter_number = 0
        self._restarts_in_a_row = 0
        self._files: tempfile.TemporaryDirectory[str] | None = None

    def check(self, sampling: Sampling) -> None:
        if find_spec("vllm") is None:
            raise ValueError(
                f"{type(self).__name__} needs vLLM, which is not installed; README, "
                "'Rollouts with vLLM', says how, or take vlm_rl.rollout.TransformersEngine"
            )

    def check_ranks(
        self,
        *,
        world_size: int,
        num_nodes: int,
        devices_per_node: int,
        gathers_within_step: str | None,
    ) -> None:
        if gathers_within_step is not None:
            raise ValueError(
                f"trainer.strategy={gathers_within_step} gathers weights within a training step "
                f"only, so {type(self).__name__} cannot compare its weights with the policy's at "
                "the start; take fsdp2, which also shards them"
            )
        self._check_placement(world_size, num_nodes, devices_per_node)

    def _check_placement(self, world_size: int, num_nodes: int, devices_per_node: int) -> None:
        """Check that there is an engine for every rank. Raises ValueError."""

    def start(self, policy: Policy, encoder: PromptEncoder, sampling: Sampling) -> None:
        """Launch, give it the weights, prove block by block that it computes what they say.

        Raises EngineMismatch where it does not, EngineGaveUp where it does not start.
        """
        self._policy = policy
        if self.adapter_rank:
            agreed(lambda: _check_adapter(policy, self.adapter_rank))
        self._vocabulary = Vocabulary(
            tokenizer=encoder.tokenizer,
            stop_ids=frozenset(encoder.tokenizer.convert_tokens_to_ids(list(STOP_TOKENS))),
            banned_ids=frozenset(policy.banned_ids.tolist()),
        )
        self._probe = Probe(encoder, sampling.max_completion_tokens)
        self._files = tempfile.TemporaryDirectory(prefix="vlm_rl_engine_")
        self.prepare(Path(self._files.name), policy.model.config, encoder, sampling)
        self._started(first=True)

    def prepare(
        self, folder: Path, config: Any, encoder: PromptEncoder, sampling: Sampling
    ) -> None:
        """Write what vLLM reads at its start: no weights, and no generation_config.json.

        The processor has the pixel limits of the trainer's, since it is the trainer's.
        """
        self.folder = folder
        self.max_model_len = encoder.max_prompt_tokens + sampling.max_completion_tokens
        config.save_pretrained(folder)
        encoder.processor.save_pretrained(folder)

    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        for prompt in prompts:
            if len(prompt.images) > self.max_images:
                raise ValueError(
                    f"problem {prompt.uid} has {len(prompt.images)} images, above "
                    f"engine.init_args.max_images={self.max_images}; raise that"
                )
        while True:
            try:
                groups = agreed(lambda: self._sample(prompts, group_size, sampling, seed))
            except EngineFault as fault:
                # the fault itself would hold the broken engine in memory
                message, own = str(fault), fault.own
            else:
                self._restarts_in_a_row = 0
                return groups
            self._restart(message, own)

    def update_weights(self, policy: Policy) -> None:
        assert policy is self._policy, "this engine was started for another policy"
        try:
            self._exchange()
        except EngineFault as fault:
            message, own = str(fault), fault.own
        else:
            return
        self._restart(message, own)

    def close(self) -> None:
        self._stop()
        if self._files is not None:
            self._files.cleanup()

    def arguments(self) -> dict[str, Any]:
        """Of `vllm.LLM`; a server's command line has the same."""
        memory: dict[str, Any] = {"gpu_memory_utilization": self.gpu_memory_utilization}
        if self.kv_cache_gib is not None:
            memory = {"kv_cache_memory_bytes": int(self.kv_cache_gib * 2**30)}
        return {
            "model": str(self.folder),
            "load_format": NAME,  # the weights come from the policy
            "generation_config": "vllm",  # no sampling defaults from the checkpoint
            "logprobs_mode": "processed_logprobs",  # of the distribution that is sampled
            "dtype": self.precision,
            "tensor_parallel_size": self.tensor_parallel_size,
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_concurrent,
            "limit_mm_per_prompt": {"image": self.max_images, "video": 0},
            "weight_transfer_config": {"backend": NAME},
            **memory,
            **self._adapter_arguments(),
            **({} if torch.cuda.is_available() else _on_cpu(self.max_model_len)),
        }

    def _adapter_arguments(self) -> dict[str, Any]:
        if not self.adapter_rank:
            return {}
        rank = next(rank for rank in ADAPTER_RANKS if rank >= self.adapter_rank)
        return {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1}

    @property
    def _has_engine(self) -> bool:
        """Whether this process runs an engine and feeds it, rather than share another one's."""
        return True

    @abstractmethod
    def _launch(self) -> WeightSender | None:
        """Start vLLM on the files in `_files`, with any weights. Raises EngineFault. None where
        this process sends no weights."""

    @abstractmethod
    def _stop(self) -> None:
        """End vLLM, also one that is hung; nothing happens where none runs."""

    @abstractmethod
    def _ask(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers in the order of the requests. Raises EngineFault."""

    @abstractmethod
    def _empty_caches(self) -> None:
        """Forget prompts, pixels and image embeddings. Raises EngineFault."""

    @abstractmethod
    def _load_adapter(self, number: int, folder: Path) -> None:
        """Sample with the adapter in `folder` from now on. Raises EngineFault."""

    def _before_weights(self) -> None:
        """Make the engine ready for weights."""

    def _sample(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        requests = self._vocabulary.requests(
            prompts, group_size=group_size, sampling=sampling, seed=seed
        )
        answers = self._ask(requests) if requests else []
        pairs = zip(requests, answers, strict=True)
        return [self._vocabulary.group(request, answer, group_size) for request, answer in pairs]

    def _started(self, *, first: bool, launch: bool = True) -> None:
        try:
            agreed(lambda: self._renew(launch))
            self._exchange(whole=True, first=first)
        except EngineFault as fault:
            message, own = str(fault), fault.own
        else:
            return
        self._restart(message, own, first=first)

    def _renew(self, launch: bool) -> None:
        if launch:
            self._sender = self._launch()

    def _is_hit(self, own: bool) -> bool:
        """Whether a fault, of this process's `own` engine or not, needs another launch here."""
        return own

    def _restart(self, fault: str, own: bool, *, first: bool = False) -> None:
        """Start vLLM again where it failed, and give all the policy's weights; raises EngineGaveUp
        at the ceiling."""
        launch = self._is_hit(own)
        if launch:
            self._stop()
        if self._restarts_in_a_row == self.max_restarts:
            raise EngineGaveUp(
                f"the rollout engine failed {self.max_restarts + 1} times in a row, last: {fault}"
            )
        self._restarts_in_a_row += 1
        if launch and self._has_engine:
            self.restarts += 1
            print(f"rollout engine: {fault}; started again ({self.restarts} times by now)")
        self._started(first=first, launch=launch)

    def _exchange(self, *, whole: bool = False, first: bool = False) -> None:
        """Give the engine the policy's weights and compare what both compute."""
        agreed(self._before_weights)
        if whole or not self.adapter_rank:
            agreed(lambda: self._send(one_by_one=first))
        if self.adapter_rank:
            agreed(self._send_adapter)
        agreed(self._empty_caches)
        self._compare("at the start" if first else "after an update")
        if first:
            unseen = prove_blocks(
                self._policy,
                self._probe,
                sample=self._sample_probe,
                send=self._send_part,
                tolerance=self.probe_tolerance,
            )
            if unseen and ranks.is_first():
                print(f"rollout engine: the probe does not depend on {', '.join(unseen)}")
            self._compare("after each block was changed and restored")

    def _compare(self, when: str) -> None:
        groups = self._sample_probe()
        agreed(lambda: compare(self._policy, self._probe, groups, self.probe_tolerance, when))

    def _sample_probe(self) -> list[list[Completion]]:
        probe = self._probe
        return agreed(lambda: self._sample(probe.prompts, 1, probe.sampling, seed=0))

    def _send_part(self, names: frozenset[str]) -> None:
        agreed(lambda: self._send(only=names, partial=True))
        agreed(self._empty_caches)

    def _send(self, only: frozenset[str] | None = None, **how: bool) -> None:
        weights = self._weights(only)
        try:
            if self._sender is not None:
                self._sender.send(weights, **how)
        finally:
            deque(weights, maxlen=0)  # to its end: the other processes gather them with this one

    def _weights(self, only: frozenset[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        return whole_weights(self._policy, merge_adapters=not self.adapter_rank, only=only)

    def _send_adapter(self) -> None:
        """By a folder that both see; a number of its own keeps vLLM from taking an older one."""
        self._adapter_number += 1
        folder = self.folder / f"adapter_{self._adapter_number}"
        save_adapter(self._policy.model, folder, write=self._has_engine)
        self._load_adapter(self._adapter_number, folder)
        rmtree(self.folder / f"adapter_{self._adapter_number - 1}", ignore_errors=True)


def _check_adapter(policy: Policy, max_rank: int) -> None:
    """Raises EngineMismatch unless adapters that vLLM computes are all that the policy trains."""
    trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    # it ignores those in a vision tower, and logs that below the level shown
    other = [name for name in trained if not is_adapter(name) or ".visual." in name]
    if other or not trained:
        raise EngineMismatch(
            "engine.init_args.adapter_rank sends adapters of the language model alone, but the "
            f"policy trains {other[0] if other else 'none'}; leave it at 0"
        )
    rank = max(p.shape[0] for name, p in trained.items() if ".lora_A." in name)
    if rank > max_rank:
        raise EngineMismatch(
            f"engine.init_args.adapter_rank={max_rank} is below the policy's adapters; set {rank}"
        )


def environment() -> dict[str, str]:
    """Variables that vLLM reads, in process and in a server."""
    variables = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    if not torch.cuda.is_available():
        # compiling its helpers costs more than they save
        variables["TORCHDYNAMO_DISABLE"] = "1"
    return {name: os.environ.get(name, value) for name, value in variables.items()}


def child_path(folder: Path) -> str:
    """PYTHONPATH for vLLM's processes, with a `sitecustomize` in `folder`.

    They import torchvision before any plugin is loaded, which beside a CPU build of torch works
    only after `vlm_rl.torchvision_on_cpu`.
    """
    Path(folder, "sitecustomize.py").write_text("import vlm_rl\n")
    here = str(Path(vlm_rl.__file__).parents[1])
    return os.pathsep.join([str(folder), here, *filter(None, [os.environ.get("PYTHONPATH")])])


def _on_cpu(max_model_len: int) -> dict[str, Any]:
    return {
        "enforce_eager": True,
        # a seeded request whose prompt is processed in parts kills vLLM's CPU sampler
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(8192, max_model_len),
    }
