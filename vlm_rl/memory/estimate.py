"""How much memory a run needs on each GPU and on each node, by arithmetic.

Weights, gradients and AdamW's moments are exact, as torch lays them out. What is gathered for a
moment and what a forward holds are estimates. Not counted are the context of CUDA, the buffers of
NCCL and what the allocator cannot use: `USABLE` leaves room for them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal, NamedTuple

from vlm_rl.distributed.strategies import STRATEGIES
from vlm_rl.memory.model_shape import LayerShape, ModelShape, Weights, by_block, count

PHASES = ("update", "step", "exchange", "rollout")
"""Forward and backward; the optimizer's step; weights on their way to an engine; sampling."""

NODE_PHASES = ("start", "run")
"""Reading the checkpoint at policy.path; all that comes after."""

USABLE = 0.9
"""Share of a GPU that the sum may reach; chosen, not measured."""

FLOAT = 4
ZERO_BUCKET = 500_000_000
ZERO_LIVE = 1_000_000_000
"""Numbers in DeepSpeed's bucket of gradients, and in weights that stage 3 keeps gathered: its
defaults (reduce_bucket_size, stage3_max_live_parameters)."""

CHUNK_ROWS = 256
CHUNKS = 5
"""Rows of a chunk in `vlm_rl.model.logprobs`, and how many float32 [rows, V] its backward has at
once: log p, p, their gradient, and two products on the way to the entropy's."""


@dataclass
class Setup:
    """A run on `gpus` GPUs of all `nodes`.

    `micro_batch_tokens` bounds a forward, but never below one prompt and completion. "transformers"
    decodes `rows` completions side by side. "vllm" is on the trainer's GPUs, an engine for each
    `tensor_parallel` of them; it takes `share` of a GPU or, if that is None, its weights and
    `cache_bytes`. "elsewhere" has GPUs of its own. `precision` is the bytes of a number in the
    engine's weights, of which `chunk_bytes` travel at a time.
    """

    gpus: int = 1
    nodes: int = 1
    strategy: str = "auto"
    half: bool = True
    with_reference: bool = False
    checkpointing: bool = True
    micro_batch_tokens: int = 8192
    max_prompt_tokens: int = 6144
    max_completion_tokens: int = 2048
    group_size: int = 8
    engine: Literal["transformers", "vllm", "elsewhere"] = "vllm"
    rows: int = 0
    share: float | None = None
    cache_bytes: int = 0
    sleep: bool = True
    tensor_parallel: int = 1
    precision: int = 2
    chunk_bytes: int = 512 << 20

    def __post_init__(self) -> None:
        """Set `zero`, DeepSpeed's stage or 0, and the bytes of a number: `compute` in a matrix,
        `stream` in gathered weights and the residual stream. Raise ValueError for bad settings."""
        if self.strategy not in STRATEGIES:
            names = ", ".join(STRATEGIES)
            raise ValueError(f"trainer.strategy must be one of {names}, got {self.strategy!r}")
        if self.gpus % self.nodes:
            raise ValueError(f"{self.gpus} GPUs cannot be spread evenly over {self.nodes} nodes")
        self.fsdp = self.strategy.startswith("fsdp2")
        self.zero = int(self.strategy[4]) if self.strategy.startswith("zero") else 0
        self.offload = self.strategy.endswith("_offload")
        self.shards_weights = self.fsdp or self.zero == 3
        self.compute = 2 if self.half else FLOAT
        self.stream = 2 if self.half and self.fsdp else FLOAT
        self.length = self.max_prompt_tokens + self.max_completion_tokens

    def held_bytes(self, weights: Weights, zero_stage: int) -> int:
        """Return the float32 bytes on rank 0, which has most, of a number for each of `weights`.

        FSDP2 shards each along its first dimension, DeepSpeed from `zero_stage` on all end to end.
        """
        if self.fsdp:
            return FLOAT * sum(ceil(len(w) / self.gpus) * w[0].numel() for w in weights.values())
        return FLOAT * ceil(count(weights) / (self.gpus if self.zero >= zero_stage else 1))


class Item(NamedTuple):
    """`nbytes` in each of `phases`, and a note on what they are."""

    name: str
    nbytes: int
    phases: Sequence[str]
    note: str
    on_cpu: bool = False


def total(items: Iterable[Item], phase: str) -> int:
    """Return the bytes of all items in a phase."""
    return sum(item.nbytes for item in items if phase in item.phases)


@dataclass(frozen=True)
class MemoryEstimate:
    """What the trainer and vLLM hold on a GPU, and what is on the CPU of the node with rank 0."""

    setup: Setup
    trainer: Sequence[Item]
    engine: Sequence[Item]
    cpu: Sequence[Item]

    def needed(self, phase: str, gpu_bytes: float | None = None) -> float:
        """Return the sum of a phase; with `gpu_bytes` vLLM takes its share of so large a GPU."""
        share, engine = self.setup.share, float(total(self.engine, phase))
        if gpu_bytes and share and (phase == "rollout" or not self.setup.sleep):
            engine = share * gpu_bytes
        return total(self.trainer, phase) + engine

    def fits(self, gpu_bytes: float) -> bool:
        """Return whether every phase fits on such GPUs, and vLLM into its share."""
        within = all(self.needed(phase, gpu_bytes) <= USABLE * gpu_bytes for phase in PHASES)
        share = (self.setup.share or 1) * gpu_bytes
        return within and all(total(self.engine, phase) <= share for phase in PHASES)


def estimate(model: ModelShape, setup: Setup) -> MemoryEstimate:
    """Return what a run of that model needs."""
    state = list(_state(model, setup))
    trainer = [item for item in state if not item.on_cpu]
    trainer += [*_update(model, setup), *_sampling(model, setup)]
    engine = list(_vllm(model, setup)) if setup.engine == "vllm" else []
    return MemoryEstimate(setup, trainer, engine, list(_node(model, setup, state)))


def activations(model: ModelShape, setup: Setup, tokens: int, patches: int) -> dict[str, int]:
    """Return what a forward over `tokens` with the `patches` of their images holds until its
    backward is done, in bytes by purpose. Nothing is kept of a frozen tower.

    The sums name what autograd saves in the layers that transformers has for Qwen-VL, with
    PyTorch's own attention (SDPA). Under bf16-mixed the residual stream stays float32, except
    under FSDP2, which gathers weights in bfloat16. With checkpointing only casts of the head and
    of the tower outside its blocks wait for the backward.
    """
    compute, text = setup.compute, model.text
    kept, at_work = _kept(text, tokens, setup)
    tower, in_tower = 0, 3 * patches * model.tower.mlp * compute
    if model.tower_trained:
        tower, in_tower = _kept(model.tower, patches, setup)
        # what mergers normalise, and the input and output of their activation
        tower += model.mergers * patches * model.tower.hidden * (FLOAT + 3 * compute)
    layers = [size for name, size in by_block(model.weights).items() if name[-1:].isdigit()]
    waiting = count(model.weights) - by_block(model.weights)[""] + model.head.numel()
    waiting, casting = (waiting - sum(layers), max(layers)) if setup.checkpointing else (waiting, 0)
    cast = compute if compute != setup.stream else 0  # autocast's copies
    masks = 1 if setup.checkpointing else text.count
    return {
        "language layers": kept + tokens * text.hidden * (FLOAT + setup.stream + compute),
        "vision tower": tower + patches * model.pixels * (FLOAT + compute),
        "layer at work": max(at_work, in_tower) + cast * casting,
        # [1, 1, S, S] as bool, and as the numbers that SDPA makes of it in each layer
        "attention mask": tokens**2 * (1 + masks * compute),
        "cast weights": cast * waiting,
        "logits": CHUNKS * CHUNK_ROWS * model.vocabulary * FLOAT,
    }


def _kept(layers: LayerShape, rows: int, setup: Setup) -> tuple[int, int]:
    """Return the bytes that all layers keep for `rows` tokens or patches, and those at work in the
    layer whose backward runs.

    Two norms: the input in float32, the normalised one, and what enters the matrices, which
    autocast casts for each of them. Attention: queries and keys before and after half of a
    rotation, queries, keys and values for every head, output, sums. MLP: the output of each matrix
    and its activation.
    """
    compute, stream = setup.compute, setup.stream
    norms = layers.hidden * (2 * (FLOAT + stream) + (5 if compute != stream else 2) * compute)
    attention = (6 * layers.queries + 2 * layers.keys) * compute + layers.heads * FLOAT
    mlp = (4 if layers.gated else 2) * layers.mlp * compute
    layer, gradients = rows * (norms + attention + mlp), 3 * rows * layers.mlp * compute
    if setup.checkpointing:  # of each layer its input, and one layer again
        return layers.count * rows * layers.hidden * stream, layer + gradients
    return layers.count * layer, gradients


def _state(model: ModelShape, setup: Setup) -> Iterator[Item]:
    """Yield what stays from update to update."""
    weights, trained, offload = model.weights, model.trained, setup.offload
    all_held, moment = setup.held_bytes(weights, 3), setup.held_bytes(trained, 1)
    yield Item("weights", all_held, PHASES, "float32", offload and setup.shards_weights)
    # DDP's buckets are the gradients, and stay
    is_ddp = setup.strategy == "ddp" or (setup.strategy == "auto" and setup.gpus > 1)
    phases, held = PHASES if is_ddp else ("update", "step"), setup.held_bytes(trained, 2)
    yield Item("gradients", held, phases, "float32, of what is trained", offload)
    yield Item("moments", 2 * moment, PHASES, "AdamW's two, float32", offload)
    if setup.zero and (offload or setup.zero < 3):
        note = "DeepSpeed's own, of what this process steps"
        yield Item("second copy of weights", moment, PHASES, note, offload)
    if setup.with_reference and len(model.base) == len(weights):
        # frozen weights are the policy's own, unless it is sharded; DeepSpeed has the copy whole
        size = all_held if setup.fsdp else FLOAT * count(weights if setup.zero == 3 else trained)
        yield Item("reference", size, PHASES, "float32", offload and setup.fsdp)


def _update(model: ModelShape, setup: Setup) -> Iterator[Item]:
    """Yield what an update holds on the way, its optimizer's step included."""
    phase, tokens = ("update",), max(setup.micro_batch_tokens, setup.length)
    note = f"estimate, {tokens:,} tokens, all of images"
    kept = activations(model, setup, tokens, tokens * model.patches)
    yield from (Item(name, nbytes, phase, note) for name, nbytes in kept.items() if nbytes)
    if model.head.requires_grad:
        size = model.head.numel() * (FLOAT + setup.compute)
        yield Item("head's gradient", size, phase, "summed in float32, and a chunk's")
    if setup.fsdp:
        # the root stays gathered, a block is fetched ahead of another, whose gradients are float32
        root, block = _root_and_block(model.weights)
        size = setup.stream * (root + 2 * block)
        yield Item("gathered weights", size, phase, "estimate, the root and two blocks")
        root, block = _root_and_block(model.trained)
        size = setup.stream * (root + block) + FLOAT * block
        yield Item("their gradients", size, phase, "estimate, the root's and a block's")
    if setup.zero:
        yield Item("bucket", FLOAT * ZERO_BUCKET, ("update", "step"), "of gradients, DeepSpeed's")
    if setup.zero == 3:
        size = FLOAT * min(ZERO_LIVE, count(model.weights))
        yield Item("gathered weights", size, phase, "at most, DeepSpeed's")
    if not setup.offload:  # AdamW takes all roots at once, of FSDP2's one after the other
        parts = [{n: w} for n, w in model.trained.items()] if setup.fsdp else [model.trained]
        size = max(setup.held_bytes(part, 1) for part in parts)
        yield Item("AdamW's roots", size, ("step",), "of the second moments, float32")


def _root_and_block(weights: Weights) -> tuple[int, int]:
    sizes = by_block(weights)
    return sizes.pop("", 0), max(sizes.values(), default=0)


def _sampling(model: ModelShape, setup: Setup) -> Iterator[Item]:
    """Yield what a rollout, or the weights on their way to it, take of the trainer's memory."""
    if setup.engine != "transformers":
        largest = max(weight.numel() for weight in model.weights.values())
        size = max(setup.chunk_bytes, setup.precision * largest)
        size += FLOAT * largest if setup.shards_weights else 0
        yield Item("weights on their way", size, ("exchange",), "the largest whole, and a chunk")
        return
    phase, text, compute = ("rollout",), model.text, setup.compute
    if setup.shards_weights:
        size = setup.stream * count(model.weights)
        yield Item("whole policy", size, phase, "gathered for sampling")
    groups = max(1, setup.rows // setup.group_size)
    rows, prompts = groups * setup.group_size, groups * setup.max_prompt_tokens
    note = f"{rows} rows of {setup.length:,} tokens"
    yield Item("cache", rows * _cache_bytes(model, setup, compute), phase, f"at most, {note}")
    decoding = 2 * rows * setup.length * text.queries * compute
    at_once = prompts * (3 * text.mlp * compute + 4 * text.hidden * FLOAT)
    yield Item("layer at work", max(decoding, at_once), phase, f"estimate, {note}")
    size = 4 * rows * model.vocabulary * FLOAT
    yield Item("logits", size, phase, "estimate, of a token in each row")


def _vllm(model: ModelShape, setup: Setup) -> Iterator[Item]:
    size = ceil(setup.precision * count(model.base) / setup.tensor_parallel)
    phases, note = ("exchange", "rollout") if setup.sleep else PHASES, f"{8 * setup.precision} bits"
    note += f", over {setup.tensor_parallel} GPUs" if setup.tensor_parallel > 1 else ""
    yield Item("vLLM's weights", size, phases, note)
    size, note = _cache_bytes(model, setup, setup.precision), f"{setup.length:,} tokens"
    if setup.share is None:
        size, note = setup.cache_bytes, "engine.init_args.kv_cache_gib"
    yield Item("vLLM's cache", size, ("rollout",) if setup.sleep else PHASES, f"at least, {note}")


def _cache_bytes(model: ModelShape, setup: Setup, precision: int) -> int:
    """Return the bytes of keys and values of one completion."""
    return 2 * model.text.count * model.text.keys * setup.length * precision


def _node(model: ModelShape, setup: Setup, state: Iterable[Item]) -> Iterator[Item]:
    each, whole = setup.gpus // setup.nodes, FLOAT * count(model.weights)
    processes = f"in {each} processes"
    for item in state:
        if item.on_cpu:
            yield Item(item.name, each * item.nbytes, ("run",), f"{item.note}, {processes}")
    if setup.fsdp:
        yield Item("loading", whole, ("start",), "the first process, float32")
        size = whole + 2 * FLOAT * count(model.trained)
        yield Item("checkpoint", size, ("run",), "the first process: weights, moments")
    else:
        yield Item("loading", each * whole, ("start",), f"float32, {processes}")
    if setup.zero == 3:
        yield Item("checkpoint", whole, ("run",), "the first process: weights")
    if setup.engine == "vllm" and setup.sleep:
        size = each * setup.precision * count(model.base) // setup.tensor_parallel
        yield Item("vLLM asleep", size, ("run",), f"its weights, {processes}")
