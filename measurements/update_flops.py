"""What the mathematics of a Qwen2.5-VL's update needs, in FLOPs, whatever the code computes.

6 per weight and token (forward 2, backward 4), attention over the pairs that see each other, the
head for completion tokens only. Left out: norms, rotations, softmax, the optimizer, and what
gradient checkpointing computes a second time.
"""

from typing import Any

from vlm_rl.model.packing import Packed


def update_flops(packed: Packed, config: Any) -> float:
    """Return the FLOPs of a packed forward and its backward, which counts twice the forward."""
    text, vision = config.text_config, config.vision_config
    head_dim = text.hidden_size // text.num_attention_heads
    keys = text.num_key_value_heads * head_dim
    # queries and output; keys and values; gate, up and down
    layer = 2 * text.hidden_size**2 + 2 * text.hidden_size * keys
    layer += 3 * text.hidden_size * text.intermediate_size
    forward = 2.0 * text.num_hidden_layers * layer * packed.token_ids.shape[1]
    forward += 4.0 * text.num_hidden_layers * text.hidden_size * visible_pairs(packed)
    forward += 2.0 * text.vocab_size * text.hidden_size * len(packed.targets)
    grids = [image.grid_thw[0].tolist() for image in packed.images.values()]
    return 3 * (forward + sum(_tower_flops(h, w, vision) for _, h, w in grids))


def visible_pairs(packed: Packed) -> int:
    """Count the pairs of query and key: prompts and completions are causal, and completions see
    their prompt."""
    pieces = [n for group in packed.groups for n in (group.prompt, *group.completions)]
    seen = sum(group.prompt * sum(group.completions) for group in packed.groups)
    return sum(n * (n + 1) // 2 for n in pieces) + seen


def _tower_flops(height: int, width: int, vision: Any) -> float:
    """Return the FLOPs of a forward over an image of `height` x `width` patches."""
    hidden, merge = vision.hidden_size, vision.spatial_merge_size
    patches = height * width
    patch_dim = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    weights = vision.depth * (4 * hidden**2 + 3 * hidden * vision.intermediate_size)
    merged = hidden * merge**2
    merger = merged * (merged + vision.out_hidden_size) / merge**2
    side = vision.window_size // vision.patch_size
    windows = _squares(height, side) * _squares(width, side)
    whole = len(vision.fullatt_block_indexes)
    pairs = whole * patches**2 + (vision.depth - whole) * windows
    return 2.0 * patches * (hidden * patch_dim + weights + merger) + 4.0 * hidden * pairs


def _squares(length: int, side: int) -> int:
    """Return the sum of squares of the pieces, of at most `side`, into which `length` is cut."""
    return length // side * side**2 + (length % side) ** 2
