"""A Qwen2.5-VL with random weights, its processor and prompts with images, without a download."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import vlm_rl  # noqa: F401  (before anything that imports torchvision)

# isort: split
import tempfile

import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from data_prep.tiny_policy import CHAT_TEMPLATE, build_tokenizer
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.records import Problem, Prompt

TEXT = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128000,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 2048,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}


@dataclass(frozen=True)
class Scale:
    """A shape, as changes of the 3B one, and its default work."""

    text: dict[str, Any]
    vision: dict[str, Any]
    num_parameters: int
    sizes: tuple[tuple[int, int], ...]
    work: dict[str, int]


SCALES = {
    # config.json of Qwen/Qwen2.5-VL-3B-Instruct
    "3b": Scale(
        {},
        {},
        3_754_622_976,
        ((1280, 960), (640, 480), (1920, 1080)),
        {
            "prompts": 8,
            "group_size": 8,
            "tokens": 512,
            "max_pixels": 1280 * 28 * 28,
            "micro_batch_tokens": 8192,
        },
    ),
    "tiny": Scale(
        {
            "vocab_size": 448,
            "bos_token_id": None,
            "eos_token_id": None,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [4, 6, 6],
            },
        },
        {
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
        },
        343_872,
        ((128, 96), (64, 48), (192, 108)),
        {
            "prompts": 4,
            "group_size": 2,
            "tokens": 16,
            "max_pixels": 16 * 28 * 28,
            "micro_batch_tokens": 64,
        },
    ),
}


def build_config(scale: Scale) -> Qwen2_5_VLConfig:
    ids = build_tokenizer().convert_tokens_to_ids(
        ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    )
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return Qwen2_5_VLConfig(
        text_config=TEXT | scale.text,
        vision_config=VISION | scale.vision,
        tie_word_embeddings=True,
        **dict(zip(names, ids, strict=True)),
    )


def build_policy(config: Qwen2_5_VLConfig, expected: int) -> Policy:
    """Return a policy with random float32 weights, equal on all ranks.

    Raises ValueError, before any weight is made, unless there are `expected` of them.
    """
    with torch.device("meta"):
        number = AutoModelForImageTextToText.from_config(config).num_parameters()
    if number != expected:
        raise ValueError(f"the shape has {number} parameters, {expected} were expected")
    torch.manual_seed(0)
    policy = Policy(AutoModelForImageTextToText.from_config(config, dtype=torch.float32))
    policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    return policy.train()


def build_encoder(max_pixels: int) -> PromptEncoder:
    """Return Qwen2.5-VL's processor with a tokenizer of our own, since text hardly counts here."""
    patches = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**patches),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**patches),
        chat_template=CHAT_TEMPLATE,
    )
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        return PromptEncoder(
            folder, min_pixels=4 * 28 * 28, max_pixels=max_pixels, max_prompt_tokens=16384
        )


def build_prompts(
    encoder: PromptEncoder, sizes: Sequence[tuple[int, int]], number: int
) -> list[Prompt]:
    """Return prompts with an image of noise each, the sizes (width, height) in turn."""
    generator = torch.Generator().manual_seed(0)
    prompts = []
    for index in range(number):
        width, height = sizes[index % len(sizes)]
        image = noise(width, height, generator)
        question = "<image>What is the largest value in the picture?"
        prompts.append(encoder.encode(Problem(str(index), question, "7", images=(image,))))
    return prompts


def noise(width: int, height: int, generator: torch.Generator) -> bytes:
    """Return a PNG file of random pixels."""
    pixels = torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=generator)
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "PNG", compress_level=0)
    return file.getvalue()
