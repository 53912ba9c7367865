"""What both ways of running vLLM share: the exchange of weights, and completions from answers.

vLLM holds its own copy of the weights. An engine is launched without weights, then gets the
policy's by `_exchange`, at the start and at every update. `weight_checks` says what is checked in
either; `restarts` says when an engine is launched again. All ranks go through this together.
"""

import tempfile
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

import torch
from torch import Tensor

from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.distributed.weights import whole_weights
from vlm_rl.model.families import family_of
from vlm_rl.model.lora import save_adapter
from vlm_rl.model.policy import Policy
from vlm_rl.model.saving import published
from vlm_rl.processes.background import begun
from vlm_rl.records import Completion, Prompt
from vlm_rl.rollout.background import awaited
from vlm_rl.rollout.faults import EngineFault
from vlm_rl.rollout.sampling import Sampling
from vlm_rl.rollout.stop_tokens import StopTokens
from vlm_rl.rollout.vllm import on_cpu
from vlm_rl.rollout.vllm.plugin import NAME
from vlm_rl.rollout.vllm.protocol import Answer, Request, Vocabulary
from vlm_rl.rollout.vllm.restarts import RestartingEngine, agreed
from vlm_rl.rollout.vllm.weight_checks import Probe, WeightChecks, check_adapters
from vlm_rl.rollout.vllm.weight_sender import WeightSender

Precision = Literal["float32", "bfloat16"]

TOLERANCE: dict[Precision, float] = {"float32": 1e-4, "bfloat16": 5e-2}
"""Mean |difference| of the probe's log-probabilities that rounding may cause, in nats. Measured on
tiny models: 5e-7 in float32, 7e-3 in bfloat16. One update of training may change less, so the
checks at the start show that weights arrive; those after an update notice what breaks grossly."""

CLOSING_S = 10.0
"""How long the end of a run waits for a rollout that nobody needs any longer to be given up."""

ADAPTER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM has kernels for; a smaller adapter uses the next one."""


class VLLMBase(RestartingEngine):
    """An engine of vLLM.

    `precision` is that of vLLM's weights (default: bfloat16 on a GPU, else float32).
    `max_concurrent` completions are decoded side by side. `kv_cache_gib` is the memory for keys and
    values if it is not a share of a GPU (on a CPU 1 GiB by default). `max_images` is the largest
    number of images in a prompt. Weights are sent in chunks of at most `chunk_mib`. An engine that
    is not up after `startup_timeout_s` counts as dead, one that has done nothing for
    `silence_timeout_s` as hung. After `max_restarts` restarts in a row without an answer the run
    ends. `probe_tolerance` replaces the precision's own. LoRA adapters (peft) are merged while they
    are sent. With `adapter_rank`, the largest rank, the engine keeps the base and gets only the
    adapter at each update.

    All ranks call every method, at the same time. A failure of one engine is a restart in a row on
    all of them.
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
        super().__init__(max_restarts)
        on_gpu = torch.cuda.is_available()
        self.precision: Precision = precision or ("bfloat16" if on_gpu else "float32")
        self.tensor_parallel_size = tensor_parallel_size
        self.max_concurrent = max_concurrent
        self.gpu_memory_utilization = gpu_memory_utilization
        self.kv_cache_gib = 1.0 if kv_cache_gib is None and not on_gpu else kv_cache_gib
        self.max_images = max_images
        self.chunk_mib = chunk_mib
        self.startup_timeout_s = startup_timeout_s
        self.silence_timeout_s = silence_timeout_s
        self.probe_tolerance = (
            TOLERANCE[self.precision] if probe_tolerance is None else probe_tolerance
        )
        self.adapter_rank = adapter_rank
        self._check_arguments()
        self._adapter_number = 0
        self._begun: Future[list[list[Completion]]] | None = None
        self._closes = False
        self._files: tempfile.TemporaryDirectory[str] | None = None

    def _check_arguments(self) -> None:
        name, given = type(self).__name__, vars(self)
        smallest = {
            "tensor_parallel_size": 1,
            "max_concurrent": 1,
            "max_images": 1,
            "chunk_mib": 1,
            "max_restarts": 0,
        }
        for argument, least in smallest.items():
            if given[argument] < least:
                raise ValueError(f"{name}.{argument} must be >= {least}, got {given[argument]}")
        for argument in ("startup_timeout_s", "silence_timeout_s"):
            if not given[argument] > 0:
                raise ValueError(f"{name}.{argument} must be > 0, got {given[argument]}")
        if not 0 < self.gpu_memory_utilization < 1:
            raise ValueError(
                f"{name}.gpu_memory_utilization must be in (0, 1), got "
                f"{self.gpu_memory_utilization}"
            )
        if not 0 <= self.adapter_rank <= ADAPTER_RANKS[-1]:
            raise ValueError(
                f"{name}.adapter_rank must be 0 to {ADAPTER_RANKS[-1]}, got {self.adapter_rank}"
            )

    @property
    def chunk_bytes(self) -> int:
        return self.chunk_mib << 20

    def check(self, sampling: Sampling) -> None:
        if find_spec("vllm") is None:
            raise ValueError(
                f"{type(self).__name__} needs vLLM, which is not installed; install it as "
                "docs/vllm.md says, or take vlm_rl.rollout.TransformersEngine"
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

    def check_model(self, config: Any) -> None:
        if not torch.cuda.is_available():
            on_cpu.check(config, self.precision, self.adapter_rank)

    def _check_placement(self, world_size: int, num_nodes: int, devices_per_node: int) -> None:
        """Check that every rank can have an engine. Raises ValueError."""

    def start(self, policy: Policy, encoder: PromptEncoder, sampling: Sampling) -> None:
        """Launch, send the weights, and check block by block that the engine computes with them.

        Raises EngineMismatch if it does not, EngineGaveUp if it does not start.
        """
        self._policy = policy
        if self.adapter_rank:
            agreed(lambda: check_adapters(policy, self.adapter_rank))
        self._vocabulary = Vocabulary(
            tokenizer=encoder.tokenizer,
            stop_ids=frozenset(StopTokens.of(encoder.path, encoder.tokenizer).ids),
            banned_ids=frozenset(policy.banned_ids.tolist()),
            size=policy.vocab_size,
        )
        self._probe = Probe(encoder, sampling.max_completion_tokens)
        self._checks = WeightChecks(
            policy,
            self._probe,
            sample=self._sample_probe,
            send=self._send_part,
            tolerance=self.probe_tolerance,
        )
        self._passed_start = False
        self._files = tempfile.TemporaryDirectory(prefix="vlm_rl_engine_")
        self.prepare(Path(self._files.name), policy.model.config, encoder, sampling)
        self._run(lambda: self._bring_up(launches=True), after_restart=_nothing)

    def prepare(
        self, folder: Path, config: Any, encoder: PromptEncoder, sampling: Sampling
    ) -> None:
        """Write what vLLM reads at its start: no weights, and no generation_config.json.

        The processor is the trainer's, so that both have the same pixel limits.
        """
        self.folder = folder
        self.family = family_of(config)
        self.max_model_len = encoder.max_prompt_tokens + sampling.max_completion_tokens
        config.save_pretrained(folder)
        encoder.processor.save_pretrained(folder)

    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        self._check_images(prompts)

        def sample() -> list[list[Completion]]:
            return agreed(lambda: self._sample(prompts, group_size, sampling, seed))

        groups = self._run(sample, after_restart=sample)
        self._restarts_in_a_row = 0
        return groups

    def begin(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> Future[list[list[Completion]]]:
        self._check_images(prompts)
        self._begun = begun(lambda: self._sample(prompts, group_size, sampling, seed))
        return self._begun

    def wait(self, rollout: Future[list[list[Completion]]]) -> list[list[Completion]]:
        groups = agreed(lambda: awaited(rollout))
        self._restarts_in_a_row = 0
        return groups

    def recover(self, fault: EngineFault) -> None:
        def failed() -> None:
            raise fault

        self._run(failed, after_restart=_nothing)

    def _check_images(self, prompts: Sequence[Prompt]) -> None:
        for prompt in prompts:
            if len(prompt.images) > self.max_images:
                raise ValueError(
                    f"problem {prompt.uid} has {len(prompt.images)} images, above "
                    f"engine.init_args.max_images={self.max_images}; raise that"
                )

    def update_weights(self, policy: Policy) -> None:
        assert policy is self._policy, "this engine was started for another policy"
        self._run(self._exchange, after_restart=_nothing)

    def close(self) -> None:
        self._closes = True
        if self._begun is not None:  # its thread withdraws what a server would go on with
            wait([self._begun], timeout=CLOSING_S)
        self._stop()
        if self._files is not None:
            self._files.cleanup()

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `vllm.LLM`; a server's command line has the same."""
        machine: dict[str, Any] = {"gpu_memory_utilization": self.gpu_memory_utilization}
        if self.kv_cache_gib is not None:
            machine = {"kv_cache_memory_bytes": int(self.kv_cache_gib * 2**30)}
        if not torch.cuda.is_available():
            machine |= on_cpu.arguments(self.family, self.max_model_len)
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
            **machine,
            **self._adapter_arguments(),
        }

    def _adapter_arguments(self) -> dict[str, Any]:
        if not self.adapter_rank:
            return {}
        rank = next(rank for rank in ADAPTER_RANKS if rank >= self.adapter_rank)
        return {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1}

    @abstractmethod
    def _launch(self) -> WeightSender | None:
        """Start vLLM on the files in `folder`, with any weights; None if this rank sends no
        weights. Raises EngineFault."""

    @abstractmethod
    def _ask(self, requests: Sequence[Request]) -> list[Answer]:
        """Return answers in the order of the requests. Raises EngineFault."""

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

    def _sample_probe(self) -> list[list[Completion]]:
        probe = self._probe
        return agreed(lambda: self._sample(probe.prompts, 1, probe.sampling, seed=0))

    def _bring_up(self, launches: bool) -> None:
        agreed(lambda: self._renew(launches))
        self._exchange(whole=True)

    def _renew(self, launches: bool) -> None:
        if launches:
            self._sender = self._launch()

    def _exchange(self, *, whole: bool = False) -> None:
        """Send the policy's weights and check that the engine computes with them.

        With `adapter_rank` the base is sent only if `whole`.
        """
        agreed(self._before_weights)
        if whole or not self.adapter_rank:
            agreed(lambda: self._send(one_by_one=not self._passed_start))
        if self.adapter_rank:
            agreed(self._send_adapter)
        agreed(self._empty_caches)
        if self._passed_start:
            self._checks.after_update()
        else:
            self._checks.at_start()
            self._passed_start = True

    def _send_part(self, names: frozenset[str]) -> None:
        agreed(lambda: self._send(only=names, partial=True))
        agreed(self._empty_caches)

    def _send(self, only: frozenset[str] | None = None, **how: bool) -> None:
        weights = self._weights(only)
        try:
            if self._sender is not None:
                self._sender.send(weights, **how)
        finally:
            deque(weights, maxlen=0)  # to its end: the other ranks gather them with this one

    def _weights(self, only: frozenset[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        weights = whole_weights(self._policy, merge_adapters=not self.adapter_rank, only=only)
        return published(self._policy.model.config, weights)

    def _send_adapter(self) -> None:
        """Write it to a folder that both see; a new number keeps vLLM from using an older one."""
        self._adapter_number += 1
        folder = self.folder / f"adapter_{self._adapter_number}"
        save_adapter(self._policy.model, folder, write=self._has_engine)
        self._load_adapter(self._adapter_number, folder)
        rmtree(self.folder / f"adapter_{self._adapter_number - 1}", ignore_errors=True)


def _nothing() -> None:
    """Follows a restart of an operation that loads the weights: the restart has loaded them."""
