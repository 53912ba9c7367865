"""Random Qwen2.5-VLs, and prompts and answers of exact sizes, without a download."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, GenerationConfig

from measurements.against_trl.points import Point
from measurements.random_qwen import Scale, build_config, build_encoder, noise
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.records import Completion, Problem, Prompt, Rows

TOKEN_SIDE = 28
"""Pixels of the square that becomes a token."""

SHAPES: dict[str, tuple[dict[str, int], dict[str, Any]]] = {
    # proportions of the 3B: the head is a tenth of the language model, and an image token costs
    # the tower as much as the language model
    "middle": (
        {
            "vocab_size": 4096,
            "hidden_size": 384,
            "intermediate_size": 1152,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
        },
        {
            "depth": 8,
            "hidden_size": 160,
            "intermediate_size": 432,
            "num_heads": 2,
            "fullatt_block_indexes": [3, 7],
        },
    ),
    # cheap layers, so that a large vocabulary dominates
    "small": (
        {
            "vocab_size": 4096,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
        {
            "depth": 4,
            "hidden_size": 128,
            "intermediate_size": 344,
            "num_heads": 2,
            "fullatt_block_indexes": [1, 3],
        },
    ),
    "tiny": (
        {
            "vocab_size": 448,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
        },
        {
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "fullatt_block_indexes": [1],
        },
    ),
}


def build_model(point: Point, encoder: PromptEncoder) -> Any:
    """Return the point's model with random float32 weights, the same at each call."""
    text, vision = SHAPES[point.model]
    text = text | {"vocab_size": point.vocabulary or text["vocab_size"]}
    hidden, rotary = text["hidden_size"], text["hidden_size"] // text["num_attention_heads"] // 2
    section = [rotary - 2 * (3 * rotary // 8), 3 * rotary // 8, 3 * rotary // 8]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section}
    pad, end = encoder.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    ends = {"bos_token_id": pad, "eos_token_id": end, "pad_token_id": pad}
    # weights large enough that a token's distribution depends on what it attends to
    spread = {"initializer_range": hidden**-0.5}
    config = build_config(
        Scale(
            text | ends | spread | {"rope_parameters": rope},
            vision | {"out_hidden_size": hidden},
            num_parameters=0,
            sizes=(),
            work={},
        )
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.generation_config = GenerationConfig(**ends)
    return model


def encoder_of(point: Point) -> PromptEncoder:
    """Return a processor that leaves the point's images as they are."""
    return build_encoder(max(4, point.image_tokens) * TOKEN_SIDE**2)


def build_prompts(point: Point, encoder: PromptEncoder) -> list[Prompt]:
    """Return prompts of exactly the point's numbers of image tokens and others."""
    generator = torch.Generator().manual_seed(0)
    side = round(point.image_tokens**0.5) * TOKEN_SIDE
    in_images = point.image_tokens * point.num_images if side else 0
    prompts = []
    for index in range(point.num_prompts):
        images = tuple(noise(side, side, generator) for _ in range(point.num_images if side else 0))
        frame = len(encoder.encode(Problem(str(index), "?", "7", images=images))) - in_images
        question = "?" * (1 + point.text_tokens - frame)
        prompt = encoder.encode(Problem(str(index), question or "?", "7", images=images))
        if len(prompt) != in_images + point.text_tokens:
            raise ValueError(
                f"text_tokens={point.text_tokens} cannot be met, the least is {frame}; raise it"
            )
        prompts.append(prompt)
    return prompts


def build_rows(point: Point, prompts: list[Prompt]) -> Rows:
    """Return a group of random answers for each prompt, all of the point's length."""
    generator = torch.Generator().manual_seed(0)
    size, length = point.group_size, point.answer_tokens
    groups = [
        [
            Completion(ids, torch.zeros(length), "length", "")
            # ids below 256 are plain bytes of the tokenizer
            for ids in torch.randint(256, (size, length), generator=generator)
        ]
        for _ in prompts
    ]
    return Rows.build(prompts, groups, torch.ones(len(prompts), size, dtype=torch.bool))


def random_advantages(rows: Rows) -> Tensor:
    """Return an advantage of about 1 for each row, [B]."""
    return torch.randn(len(rows), generator=torch.Generator().manual_seed(1))
