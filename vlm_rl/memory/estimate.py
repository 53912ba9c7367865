"""How much memory a run needs on each GPU and on each node, by arithmetic.

Weights and their second copy, gradients, AdamW's moments and the reference are exact, as torch lays
them out. What is gathered for a moment and what a forward holds are estimates. Not counted are the
context of CUDA, the buffers of NCCL and what the allocator cannot use: `USABLE` leaves room.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

from vlm_rl.distributed import strategies
from vlm_rl.memory.layers import FLOAT, Heads, LayerShape
from vlm_rl.memory.model_shape import ModelShape, Weights, by_block, count
from vlm_rl.model.tiles import MANY_ELEMENTS

PHASES = ("update", "step", "exchange", "rollout")
NODE_PHASES = ("start", "run")
"""Of a GPU: forward and backward; the optimizer's step; weights sent to an engine; sampling. Of the
CPU of rank 0's node: reading the checkpoint at policy.path; all that comes after."""

OFFLOADED = {
    "fsdp2_offload": ("weights", "gradients", "moments", "reference"),
    "zero2_offload": ("gradients", "moments", "second copy of weights"),
    "zero3_offload": ("weights", "gradients", "moments", "second copy of weights"),
}
"""What is on the CPU of each rank instead of its GPU."""

USABLE = 0.9
"""Share of a GPU that the sum may reach; chosen, not measured."""

ZERO_BUCKET = 500_000_000
ZERO_LIVE = 1_000_000_000
"""Numbers in DeepSpeed's bucket of gradients, and in weights that stage 3 keeps gathered: its
defaults (reduce_bucket_size, stage3_max_live_parameters)."""

LOGITS = 3
"""Buffers of float32 for a tile of logits in a backward: they, their gradient for the entropy, and
both in the precision of the product (`vlm_rl.model.tiles`)."""


@dataclass
class Setup:
    """A run on `gpus` GPUs, spread evenly over `nodes`.

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
        `stream` in gathered weights and the residual stream. Raise ValueError for the strategy."""
        strategies.check(self.strategy)
        self.ranks_per_node = self.gpus // self.nodes
        self.fsdp = self.strategy.startswith("fsdp2")
        self.zero = int(self.strategy[4]) if self.strategy.startswith("zero") else 0
        self.shards_weights = self.fsdp or self.zero == 3
        self.offloaded = OFFLOADED.get(self.strategy, ())
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


@dataclass(frozen=True)
class MemoryEstimate:
    """The bytes of each item in each of `PHASES` and `NODE_PHASES`."""

    setup: Setup
    items: Mapping[str, Mapping[str, int]]

    @property
    def vllm(self) -> int:
        """Return what vLLM needs to sample; with a share, its weights and one completion."""
        return sum(size for name, size in self.items["rollout"].items() if "vLLM" in name)

    def needed(self, phase: str, gpu_bytes: float = 0.0) -> float:
        """Return the sum of a phase; with `gpu_bytes` vLLM takes its share of so large a GPU."""
        needed, share = float(sum(self.items[phase].values())), self.setup.share
        if gpu_bytes and share and "vLLM's cache" in self.items[phase]:
            needed += share * gpu_bytes - self.vllm
        return needed

    def fits(self, gpu_bytes: float) -> bool:
        """Return whether every phase fits on such GPUs, and vLLM into its share."""
        within = all(self.needed(phase, gpu_bytes) <= USABLE * gpu_bytes for phase in PHASES)
        return within and self.vllm <= (self.setup.share or 1) * gpu_bytes


def estimate(model: ModelShape, setup: Setup) -> MemoryEstimate:
    """Return what a run of that model needs."""
    items: dict[str, dict[str, int]] = {phase: {} for phase in PHASES + NODE_PHASES}
    for part in (_state, _update, _sampling):
        for phase, sizes in part(model, setup).items():
            items[phase] |= {name: size for name, size in sizes.items() if size}
    return MemoryEstimate(setup, items)


def _state(model: ModelShape, setup: Setup) -> dict[str, dict[str, int]]:
    """Return what stays from update to update (gradients until the step), and files on the CPU.

    Under DDP gradients are the buckets, and stay. Frozen weights of a reference are the policy's
    own, unless it is sharded; DeepSpeed has the copy whole. The base of LoRA is its own reference.
    Under FSDP2 only rank 0 reads the weights. It gathers them for a checkpoint, as under ZeRO-3,
    and the moments.
    """
    whole, trained = FLOAT * count(model.weights), FLOAT * count(model.trained)
    held, moment = setup.held_bytes(model.weights, 3), setup.held_bytes(model.trained, 1)
    gradients = setup.held_bytes(model.trained, 2)
    state = {"weights": held, "gradients": gradients, "moments": 2 * moment}
    if setup.zero in (1, 2) or "second copy of weights" in setup.offloaded:
        state["second copy of weights"] = moment  # of what this rank steps
    if setup.with_reference and len(model.base) == len(model.weights):
        copy = whole if setup.zero == 3 else trained
        state["reference"] = held if setup.fsdp else copy
    cpu = {name: setup.ranks_per_node * state.pop(name, 0) for name in setup.offloaded}
    is_ddp = setup.strategy == "ddp" or (setup.strategy == "auto" and setup.gpus > 1)
    stays = state if is_ddp else {name: state[name] for name in state if name != "gradients"}
    if setup.shards_weights:
        cpu["checkpoint"] = whole + (2 * trained if setup.fsdp else 0)
    loading = {"loading": whole * (1 if setup.fsdp else setup.ranks_per_node)}
    on_gpu = {"update": state, "step": state, "exchange": stays, "rollout": stays}
    return on_gpu | {"start": loading, "run": cpu}


def _update(model: ModelShape, setup: Setup) -> dict[str, dict[str, int]]:
    """Return what an update and its optimizer's step hold on the way, all tokens being of images.

    The largest gradient exists once more before it is added. Of FSDP2's blocks, one is
    fetched ahead of another, whose gradients are float32; the root stays gathered. AdamW takes the
    roots of all second moments at once, of FSDP2's one after the other.
    """
    tokens = max(setup.micro_batch_tokens, setup.length)
    update = activations(model, setup, tokens, tokens * model.patches)
    step, parts = {}, [model.trained]
    update["largest gradient"] = _largest_gradient(model, setup)
    if setup.fsdp:
        blocks, trained = by_block(model.weights), by_block(model.trained)
        root, block = blocks.pop(""), max(blocks.values())
        update["gathered weights"] = setup.stream * (root + 2 * block)
        root, block = trained.pop("", 0), max(trained.values(), default=0)
        update["their gradients"] = setup.stream * (root + block) + FLOAT * block
        parts = [{name: weight} for name, weight in model.trained.items()]
    if setup.zero == 3:
        update["gathered weights"] = FLOAT * min(ZERO_LIVE, count(model.weights))
    if setup.zero:
        update["bucket"] = step["bucket"] = FLOAT * ZERO_BUCKET
    if not setup.offloaded:
        step["AdamW's roots"] = max(setup.held_bytes(part, 1) for part in parts)
    return {"update": update, "step": step}


def _largest_gradient(model: ModelShape, setup: Setup) -> int:
    """Return the bytes of the head's gradient or, if they are more, those of a layer's weight, in
    the precision of the product and in that of the weight; FSDP2's are counted by block."""
    head: int = model.head.numel() * setup.stream if model.head.requires_grad else 0
    if setup.fsdp:
        return head
    cast = setup.compute if setup.compute != setup.stream else 0
    layers = [w.numel() for name, w in model.trained.items() if ".layers." in name]
    largest: int = max([head, *(size * (setup.stream + cast) for size in layers)])
    return largest


def activations(model: ModelShape, setup: Setup, tokens: int, patches: int) -> dict[str, int]:
    """Return what a forward over `tokens` with the `patches` of their images holds until its
    backward is done, in bytes by purpose. Nothing is kept of a frozen tower.

    Under bf16-mixed the residual stream stays float32, except
    under FSDP2, which gathers weights in bfloat16. With checkpointing only casts of the tower
    outside its blocks wait for the backward.
    """
    compute, text = setup.compute, model.text
    kept, at_work = _kept(text, tokens, setup)
    tower, in_tower = 0, patches * max(block.gradients(compute) for block in model.tower)
    if model.tower_trained:
        tower, in_tower = _kept(model.tower, patches, setup)
        # what mergers normalise, and the input and output of their activation
        tower += model.mergers * patches * model.tower[0].hidden * (FLOAT + 3 * compute)
    blocks = by_block(model.weights)
    layers = [blocks.pop(name) for name in list(blocks) if name[-1:].isdigit()]
    waiting = sum(blocks.values()) - blocks[""]
    waiting, casting = (waiting, max(layers)) if setup.checkpointing else (waiting + sum(layers), 0)
    cast = compute if compute != setup.stream else 0  # autocast's copies
    return {
        "language layers": kept + tokens * text[0].hidden * (FLOAT + setup.stream + compute),
        "vision tower": tower + patches * model.pixels * (FLOAT + compute),
        "layer at work": max(at_work, in_tower) + cast * casting,
        "cast weights": cast * waiting,
        "logits": LOGITS * MANY_ELEMENTS * FLOAT,
    }


def _kept(layers: Sequence[LayerShape], rows: int, setup: Setup) -> tuple[int, int]:
    """Return the bytes that all layers keep for `rows` tokens or patches, and those at work in the
    layer whose backward runs."""
    compute, stream = setup.compute, setup.stream
    if setup.checkpointing:  # of each layer its input, and one layer again
        inputs = sum(layer.hidden for layer in layers) * rows * stream
        at_work = max(layer.kept(compute, stream) + layer.gradients(compute) for layer in layers)
        return inputs, rows * at_work
    kept = sum(layer.kept(compute, stream) for layer in layers)
    return rows * kept, rows * max(layer.gradients(compute) for layer in layers)


def _sampling(model: ModelShape, setup: Setup) -> dict[str, dict[str, int]]:
    """Return what sampling takes, and sending the largest weight whole in a chunk before it.

    In "transformers", the layer at work reads prompts at once, then decodes a token in each row,
    over keys and values of at most `length` tokens and the states of recurrences. vLLM asleep has
    its weights on the CPU; of its share, its weights and one completion are the least.
    """
    text, compute = model.text, setup.compute
    if setup.engine == "transformers":
        groups = max(1, setup.rows // setup.group_size)
        rows, prompts = groups * setup.group_size, groups * setup.max_prompt_tokens
        queries = max(x.mixer.queries for x in text if isinstance(x.mixer, Heads))
        decoding = 2 * rows * setup.length * queries * compute
        at_once = prompts * max(layer.at_once(compute) for layer in text)
        rollout = {
            "whole policy": setup.stream * count(model.weights) if setup.shards_weights else 0,
            "cache": rows * setup.length * model.cached(compute),
            "states": rows * model.state(compute),
            "layer at work": max(decoding, at_once),
            "logits": 4 * rows * model.vocabulary * FLOAT,
        }
        return {"rollout": rollout}
    largest = max(weight.numel() for weight in model.weights.values())
    chunk = max(setup.chunk_bytes, setup.precision * largest)
    sent = {"weights on their way": chunk + (FLOAT * largest if setup.shards_weights else 0)}
    if setup.engine == "elsewhere":
        return {"exchange": sent}
    whole, engines = setup.precision * count(model.base), setup.tensor_parallel
    one = setup.length * model.cached(setup.precision) + model.state(setup.precision)
    cache = setup.cache_bytes if setup.share is None else one
    weights = {"vLLM's weights": ceil(whole / engines)}
    awake = weights | {"vLLM's cache": cache}
    if not setup.sleep:
        return dict.fromkeys(PHASES, awake) | {"exchange": awake | sent}
    asleep = {"vLLM asleep": setup.ranks_per_node * whole // engines}
    return {"exchange": weights | sent, "rollout": awake, "run": asleep}
