"""How much memory a run needs on each GPU and on each node, by arithmetic.

Weights, gradients and AdamW's moments are exact, as torch lays them out; what is gathered for a
moment and what a forward holds (`vlm_rl.memory.activations`) are estimates. Not counted are the
context of CUDA, the buffers of NCCL and what the allocator can not use: `USABLE` leaves room for
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Literal

from vlm_rl.memory.activations import FLOAT, Forward, activations
from vlm_rl.memory.model_shape import Anatomy, Weight, by_block, count

Phase = Literal["update", "step", "exchange", "rollout"]
PHASES: tuple[Phase, ...] = ("update", "step", "exchange", "rollout")
"""Forward and backward; the optimizer's step; weights on their way to an engine; sampling."""

NODE_PHASES = ("start", "run")
"""Reading the checkpoint at policy.path; all that comes after."""

USABLE = 0.9
"""Share of a GPU that the sum may reach; chosen, not measured."""

CUT = {
    "weights": ("fsdp2", "fsdp2_offload", "zero3", "zero3_offload"),
    "gradients": ("fsdp2", "fsdp2_offload", "zero2", "zero2_offload", "zero3", "zero3_offload"),
    "moments": (
        "fsdp2",
        "fsdp2_offload",
        "zero1",
        "zero2",
        "zero2_offload",
        "zero3",
        "zero3_offload",
    ),
}
"""Strategies that share each of them out among all processes."""

ZERO_BUCKET = 500_000_000
ZERO_LIVE = 1_000_000_000
"""Numbers in DeepSpeed's bucket of gradients, and in weights that stage 3 keeps gathered: its
defaults (reduce_bucket_size, stage3_max_live_parameters)."""


@dataclass(frozen=True)
class Transformers:
    """`TransformersEngine`: `rows` completions decoded side by side."""

    rows: int


@dataclass(frozen=True)
class VLLM:
    """vLLM on the trainer's GPUs, one engine for each `tensor_parallel` of them.

    It takes `share` of a GPU or, where that is None, its weights and `cache_bytes`. `precision` is
    the bytes of its weights' numbers. `chunk_bytes` of weights travel at a time.
    """

    share: float | None = 0.5
    cache_bytes: int = 0
    sleep: bool = True
    tensor_parallel: int = 1
    precision: int = 2
    chunk_bytes: int = 512 << 20


@dataclass(frozen=True)
class Elsewhere:
    """An engine on GPUs of its own."""

    chunk_bytes: int = 512 << 20


@dataclass(frozen=True)
class Run:
    """What a run asks for.

    `micro_batch_tokens` bounds a forward, but never below one prompt and completion of
    `max_prompt_tokens` and `max_completion_tokens`. `gpus` counts those of all `nodes`.
    """

    gpus: int = 1
    nodes: int = 1
    strategy: str = "auto"
    half: bool = True
    with_reference: bool = False
    gradient_checkpointing: bool = True
    micro_batch_tokens: int = 8192
    max_prompt_tokens: int = 6144
    max_completion_tokens: int = 2048
    group_size: int = 8
    engine: Transformers | VLLM | Elsewhere = field(default_factory=VLLM)

    def is_cut(self, what: str) -> bool:
        return self.strategy in CUT[what]

    @property
    def is_ddp(self) -> bool:
        return self.strategy == "ddp" or (self.strategy == "auto" and self.gpus > 1)

    @property
    def is_fsdp(self) -> bool:
        return self.strategy.startswith("fsdp2")

    @property
    def offloads(self) -> bool:
        return self.strategy.endswith("_offload")

    @property
    def compute(self) -> int:
        """Bytes of a number inside a matrix."""
        return 2 if self.half else FLOAT

    @property
    def gathered(self) -> int:
        """Bytes of a number in a weight that is gathered, and in the residual stream."""
        return 2 if self.half and self.is_fsdp else FLOAT


@dataclass(frozen=True)
class Item:
    """`nbytes` in each of `phases`, and in words what they are."""

    name: str
    nbytes: int
    phases: tuple[str, ...]
    why: str
    of_engine: bool = False


@dataclass(frozen=True)
class Estimate:
    """Bytes of a GPU and, of `cpu`, of the node with the first process."""

    gpu: tuple[Item, ...]
    cpu: tuple[Item, ...]
    share: float | None
    engine_phases: tuple[Phase, ...]

    def needed(self, phase: Phase, gpu_bytes: float | None = None) -> float:
        """The sum of a phase; with `gpu_bytes` the engine takes its share of so large a GPU."""
        own = sum(item.nbytes for item in self.gpu if phase in item.phases and not item.of_engine)
        if gpu_bytes is None or self.share is None or phase not in self.engine_phases:
            return own + self.engine(phase)
        return own + self.share * gpu_bytes

    def engine(self, phase: Phase) -> int:
        """The least that the engine needs."""
        return sum(item.nbytes for item in self.gpu if phase in item.phases and item.of_engine)

    @property
    def node(self) -> list[int]:
        """The sums of `NODE_PHASES`."""
        return [sum(i.nbytes for i in self.cpu if phase in i.phases) for phase in NODE_PHASES]

    @property
    def peak(self) -> float:
        return max(map(self.needed, PHASES))

    def fits(self, gpu_bytes: float) -> bool:
        """Whether every phase fits on such GPUs, and the engine into its share."""
        within = all(self.needed(phase, gpu_bytes) <= USABLE * gpu_bytes for phase in PHASES)
        share = gpu_bytes if self.share is None else self.share * gpu_bytes
        return within and all(self.engine(phase) <= share for phase in PHASES)


def estimate(anatomy: Anatomy, run: Run) -> Estimate:
    """What a run of that model needs. Raises ValueError for what no run can be."""
    _check(run)
    held = _held(run, anatomy)
    on_gpu = [item for item, is_on_cpu in held if not is_on_cpu]
    on_cpu = [item for item, is_on_cpu in held if is_on_cpu]
    asleep = isinstance(run.engine, VLLM) and run.engine.sleep
    return Estimate(
        gpu=(*on_gpu, *_update(run, anatomy), *_step(run, anatomy), *_rollout(run, anatomy)),
        cpu=_node(run, anatomy, on_cpu),
        share=run.engine.share if isinstance(run.engine, VLLM) else None,
        engine_phases=("rollout",) if asleep else PHASES,
    )


def own_bytes(run: Run, what: str, weights: Sequence[Weight]) -> int:
    """Float32 bytes in one process (the first, which has most) for a number for each of `weights`.

    FSDP2 cuts each along its first dimension, DeepSpeed all of them end to end.
    """
    if not run.is_cut(what):
        return FLOAT * count(weights)
    if run.is_fsdp:
        rows = ((ceil(w.shape[0] / run.gpus), w.numel // w.shape[0]) for w in weights)
        return FLOAT * sum(num * size for num, size in rows)
    return FLOAT * ceil(count(weights) / run.gpus)


def _check(run: Run) -> None:
    names = {"auto", "ddp", "zero1", *CUT["weights"], *CUT["gradients"]}
    if run.strategy not in names:
        raise ValueError(
            f"trainer.strategy must be one of {', '.join(sorted(names))}, got {run.strategy!r}"
        )
    if run.gpus % run.nodes:
        raise ValueError(f"{run.gpus} GPUs can not be shared out evenly among {run.nodes} nodes")


def _held(run: Run, anatomy: Anatomy) -> list[tuple[Item, bool]]:
    """What stays from update to update, each with whether it waits on the CPU."""
    all_weights, trained = anatomy.weights, anatomy.trained
    zero = run.strategy.startswith("zero")
    state_on_cpu = run.offloads
    weights_on_cpu = run.offloads and run.is_cut("weights")
    # DDP's buckets are the gradients, and stay
    with_gradients = PHASES if run.is_ddp else ("update", "step")
    items = [
        (
            Item("weights", own_bytes(run, "weights", all_weights), PHASES, "float32"),
            weights_on_cpu,
        ),
        (
            Item(
                "gradients",
                own_bytes(run, "gradients", trained),
                with_gradients,
                "float32, of what is trained",
            ),
            state_on_cpu,
        ),
        (
            Item("moments", 2 * own_bytes(run, "moments", trained), PHASES, "AdamW's two, float32"),
            state_on_cpu,
        ),
    ]
    if zero and (run.offloads or not run.is_cut("weights")):
        copy = own_bytes(run, "moments", trained)
        why = "DeepSpeed's own, of what this process steps"
        items.append((Item("second copy of weights", copy, PHASES, why), state_on_cpu))
    if run.with_reference and len(anatomy.base) == len(all_weights):
        # what is frozen is the policy's own, except where that, or both, are cut
        copied = all_weights if run.is_cut("weights") else trained
        size = own_bytes(run, "weights", all_weights) if run.is_fsdp else FLOAT * count(copied)
        items.append((Item("reference", size, PHASES, "float32"), weights_on_cpu and run.is_fsdp))
    return items


def _update(run: Run, anatomy: Anatomy) -> list[Item]:
    forward = Forward(
        tokens=_tokens(run),
        patches=_tokens(run) * anatomy.patches,
        compute=run.compute,
        stream=run.gathered,
        checkpointing=run.gradient_checkpointing,
    )
    why = f"estimate, {forward.tokens:,} tokens, all of images"
    found = activations(anatomy, forward)
    items = [Item(name, nbytes, ("update",), why) for name, nbytes in found.items() if nbytes]
    if anatomy.head.trained:
        size = anatomy.head.numel * (FLOAT + run.compute)
        items.append(Item("head's gradient", size, ("update",), "summed in float32, and a chunk's"))
    if run.is_fsdp:
        items += _gathered_blocks(run, anatomy)
    if run.strategy.startswith("zero"):
        bucket = FLOAT * ZERO_BUCKET
        items.append(Item("bucket", bucket, ("update", "step"), "of gradients, DeepSpeed's"))
        if run.is_cut("weights"):
            live = FLOAT * min(ZERO_LIVE, count(anatomy.weights))
            items.append(Item("gathered weights", live, ("update",), "at most, DeepSpeed's"))
    return items


def _gathered_blocks(run: Run, anatomy: Anatomy) -> list[Item]:
    """The root stays gathered during a forward and backward, a block is fetched ahead of another;
    gradients of the block are added up in float32."""
    root, block = _root_and_block(anatomy.weights)
    root_grad, block_grad = _root_and_block(anatomy.trained)
    gathered = run.gathered * (root + 2 * block)
    gradients = run.gathered * (root_grad + block_grad) + FLOAT * block_grad
    return [
        Item("gathered weights", gathered, ("update",), "estimate, the root and two blocks"),
        Item("their gradients", gradients, ("update",), "estimate, the root's and a block's"),
    ]


def _root_and_block(weights: Sequence[Weight]) -> tuple[int, int]:
    sizes = by_block(weights)
    return sizes.pop("", 0), max(sizes.values(), default=0)


def _step(run: Run, anatomy: Anatomy) -> list[Item]:
    """torch's AdamW takes roots of all second moments at once, of FSDP2's one after the other."""
    if run.offloads:
        return []
    size = own_bytes(run, "moments", anatomy.trained)
    if run.is_fsdp:
        size = max(own_bytes(run, "moments", [weight]) for weight in anatomy.trained)
    return [Item("AdamW's roots", size, ("step",), "of the second moments, float32")]


def _rollout(run: Run, anatomy: Anatomy) -> list[Item]:
    engine = run.engine
    if isinstance(engine, Transformers):
        return _own_rollout(run, anatomy, engine)
    largest = max(weight.numel for weight in anatomy.weights)
    precision = engine.precision if isinstance(engine, VLLM) else 2
    whole = FLOAT * largest if run.is_cut("weights") else 0
    sent = whole + max(engine.chunk_bytes, precision * largest)
    items = [Item("weights on their way", sent, ("exchange",), "the largest whole, and a chunk")]
    if isinstance(engine, VLLM):
        items += _vllm(run, anatomy, engine)
    return items


def _vllm(run: Run, anatomy: Anatomy, engine: VLLM) -> list[Item]:
    size = ceil(engine.precision * count(anatomy.base) / engine.tensor_parallel)
    length = run.max_prompt_tokens + run.max_completion_tokens
    cache, why = _cache_bytes(anatomy, length, engine.precision), f"{length:,} tokens"
    if engine.share is None:
        cache, why = engine.cache_bytes, "engine.init_args.kv_cache_gib"
    awake: tuple[Phase, ...] = ("exchange", "rollout") if engine.sleep else PHASES
    caching: tuple[Phase, ...] = ("rollout",) if engine.sleep else PHASES
    among = f", over {engine.tensor_parallel} GPUs" if engine.tensor_parallel > 1 else ""
    return [
        Item("vLLM's weights", size, awake, f"{8 * engine.precision} bits{among}", True),
        Item("vLLM's cache", cache, caching, f"at least, {why}", True),
    ]


def _own_rollout(run: Run, anatomy: Anatomy, engine: Transformers) -> list[Item]:
    text, items = anatomy.text, []
    if run.is_cut("weights"):
        whole = run.gathered * count(anatomy.weights)
        items.append(Item("whole policy", whole, ("rollout",), "gathered for sampling"))
    rows = max(1, engine.rows // run.group_size) * run.group_size
    length = run.max_prompt_tokens + run.max_completion_tokens
    cache = rows * _cache_bytes(anatomy, length, run.compute)
    decoding = 2 * rows * length * text.queries * run.compute
    prompts = rows // run.group_size * run.max_prompt_tokens
    at_once = prompts * (3 * text.mlp * run.compute + 4 * text.hidden * FLOAT)
    logits = 4 * rows * anatomy.vocabulary * FLOAT
    why = f"estimate, {rows} rows of {length:,} tokens"
    return [
        *items,
        Item("cache", cache, ("rollout",), f"at most, {rows} rows of {length:,} tokens"),
        Item("layer at work", max(decoding, at_once), ("rollout",), why),
        Item("logits", logits, ("rollout",), "estimate, of a token in each row"),
    ]


def _cache_bytes(anatomy: Anatomy, length: int, precision: int) -> int:
    """Keys and values of one completion."""
    return 2 * anatomy.text.count * anatomy.text.keys * length * precision


def _node(run: Run, anatomy: Anatomy, on_cpu: Sequence[Item]) -> tuple[Item, ...]:
    each = run.gpus // run.nodes
    processes = f"in {each} processes"
    whole = FLOAT * count(anatomy.weights)
    items = [
        Item(item.name, each * item.nbytes, ("run",), f"{item.why}, {processes}") for item in on_cpu
    ]
    if run.is_fsdp:
        items.append(Item("loading", whole, ("start",), "the first process, float32"))
        saved = whole + 2 * FLOAT * count(anatomy.trained)
        items.append(Item("checkpoint", saved, ("run",), "the first process: weights, moments"))
    else:
        items.append(Item("loading", each * whole, ("start",), f"float32, {processes}"))
        if run.is_cut("weights"):
            items.append(Item("checkpoint", whole, ("run",), "the first process: weights"))
    if isinstance(run.engine, VLLM) and run.engine.sleep:
        size = each * run.engine.precision * count(anatomy.base) // run.engine.tensor_parallel
        items.append(Item("vLLM asleep", size, ("run",), f"its weights, {processes}"))
    return tuple(items)


def _tokens(run: Run) -> int:
    return max(run.micro_batch_tokens, run.max_prompt_tokens + run.max_completion_tokens)
