"""What a forward holds until its backward is done, in bytes: an estimate.

The sums name what autograd saves in the layers that transformers has for Qwen-VL, with PyTorch's
own attention (SDPA); tests/memory/test_estimate.py compares them with what it saved. Under
bf16-mixed the residual stream stays float32, except under FSDP2, which hands out the weights in
bfloat16.
"""

from dataclasses import dataclass

from vlm_rl.memory.model_shape import Anatomy, Layers, by_block

FLOAT = 4
CHUNK_ROWS = 256
CHUNKS = 5
"""Rows of a chunk in `vlm_rl.model.logprobs`, and how many float32 [rows, V] its backward has at
once: log p, p, their gradient, and two products on the way to the entropy's."""


@dataclass(frozen=True)
class Forward:
    """`tokens` of prompts and completions in one pass, with the `patches` of their images.

    `compute` and `stream` are the bytes of a number inside the matrices and in the residual stream.
    """

    tokens: int
    patches: int
    compute: int
    stream: int
    checkpointing: bool

    @property
    def casts(self) -> bool:
        """Whether autocast casts weights, and what enters them, in every pass."""
        return self.compute != self.stream


def activations(anatomy: Anatomy, forward: Forward) -> dict[str, int]:
    """Bytes by what they are for; of a frozen tower nothing is kept."""
    text, at_work = _layers(anatomy.text, forward.tokens, forward)
    tower, in_tower = 0, 3 * forward.patches * anatomy.tower.mlp * forward.compute
    if anatomy.tower_trained:
        tower, in_tower = _layers(anatomy.tower, forward.patches, forward)
        tower += _mergers(anatomy, forward)
    cast, cast_at_work = _cast_weights(anatomy, forward)
    ends = forward.tokens * anatomy.text.hidden * (FLOAT + forward.stream + forward.compute)
    return {
        "language layers": text + ends,
        "vision tower": tower + forward.patches * anatomy.pixels * (FLOAT + forward.compute),
        "layer at work": max(at_work, in_tower) + cast_at_work,
        "attention mask": _mask(anatomy, forward),
        "cast weights": cast,
        "logits": CHUNKS * CHUNK_ROWS * anatomy.vocabulary * FLOAT,
    }


def kept_by_layer(layers: Layers, forward: Forward) -> int:
    """Bytes that one layer holds after its forward for each token, or patch.

    Two norms: the input in float32, the normalised one, and what enters the matrices, which
    autocast casts for each of them. Attention: queries and keys before and after half of a
    rotation, queries, keys and values for every head, output, sums. MLP: what leaves each of its
    matrices and its activation.
    """
    entering = 5 if forward.casts else 2
    norms = layers.hidden * (2 * (FLOAT + forward.stream) + entering * forward.compute)
    attention = (6 * layers.queries + 2 * layers.keys) * forward.compute + layers.heads * FLOAT
    mlp = (4 if layers.gated else 2) * layers.mlp * forward.compute
    return norms + attention + mlp


def _layers(layers: Layers, rows: int, forward: Forward) -> tuple[int, int]:
    """Bytes that all layers keep, and those at work in the one whose backward runs."""
    layer = rows * kept_by_layer(layers, forward)
    gradients = 3 * rows * layers.mlp * forward.compute
    if forward.checkpointing:  # of each layer its input, and one layer again
        return layers.count * rows * layers.hidden * forward.stream, layer + gradients
    return layers.count * layer, gradients


def _mergers(anatomy: Anatomy, forward: Forward) -> int:
    """What they normalise, and the input and output of their activation."""
    width = anatomy.mergers * forward.patches * anatomy.tower.hidden
    return width * (FLOAT + 3 * forward.compute)


def _mask(anatomy: Anatomy, forward: Forward) -> int:
    """[1, 1, S, S] as bool, and as the numbers that SDPA makes of it in each layer."""
    copies = 1 if forward.checkpointing else anatomy.text.count
    return forward.tokens**2 * (1 + copies * forward.compute)


def _cast_weights(anatomy: Anatomy, forward: Forward) -> tuple[int, int]:
    """Casts that wait for the backward, and those of the layer at work: with checkpointing only
    the head's and those of the tower's rest wait."""
    if not forward.casts:
        return 0, 0
    blocks = by_block(anatomy.weights)
    layers = [numel for name, numel in blocks.items() if name[-1:].isdigit()]
    waiting = sum(blocks.values()) - blocks[""] - sum(layers) + anatomy.head.numel
    if forward.checkpointing:
        return forward.compute * waiting, forward.compute * max(layers)
    return forward.compute * (waiting + sum(layers)), 0
