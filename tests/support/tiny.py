"""Tiny real checkpoints, problems and rows that several tests share.

The untrained models are nearly uniform, so that a wrong mask or position would hardly show: their
matrices are scaled up, which makes every token's distribution depend on all that it should.
"""

import io
import json
import shutil
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3_5Config,
    Qwen3_5MoeConfig,
    Qwen3VLConfig,
)

from data_prep.tiny_policy import CHAT_TEMPLATE, build_tokenizer, build_untrained
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model import families
from vlm_rl.model.policy import Policy
from vlm_rl.records import Completion, Problem, Prompt, Rows

FAMILIES = tuple(families.FAMILIES)

PROBLEMS = {
    "one image": (("Count them: <image>", (32, 64)),),
    "several images": (("<image> or <image>, and what of <image>?", (48, 32), (64, 64), (32, 48)),),
    "no image": (("What is 17 + 4?",),),
    "mixed": (
        ("Count them: <image>", (32, 64)),
        ("Compute.",),
        ("Is <image> more than <image>?", (48, 48), (32, 80)),
        ("No picture here either, but a longer text.",),
    ),
}
"""Batches of problems: a question and the heights and widths of its images, in pixels."""


EXPERTS = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}


def build_checkpoint(family: str, folder: Path) -> Path:
    """Write an untrained checkpoint of any family, with its processor."""
    if family == "qwen2_vl":
        return _build_qwen2_vl(folder)
    if family == "qwen3_5":
        return _build_qwen3_5(folder, Qwen3_5Config)
    if family == "qwen3_5_moe":
        return _build_qwen3_5(folder, Qwen3_5MoeConfig, **EXPERTS)
    return build_untrained(family, folder)


def _build_qwen2_vl(folder: Path) -> Path:
    vision = {
        "depth": 2,
        "embed_dim": 64,
        "hidden_size": 64,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 8,
        "in_channels": 3,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = Qwen2_5_VLConfig.from_pretrained(build_untrained("qwen2_5_vl", folder)).to_dict()
    del config["model_type"], config["text_config"]["model_type"], config["architectures"]
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(
        Qwen2VLConfig(**(config | {"vision_config": vision})), dtype=torch.float32
    ).save_pretrained(folder)
    patches = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}
    Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**patches, min_pixels=1024, max_pixels=65536),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**patches),
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder


def _build_qwen3_5(folder: Path, kind: type[PreTrainedConfig], **more: int) -> Path:
    """Write one with attention between two recurrences, which remember whole prompts."""
    config = Qwen3VLConfig.from_pretrained(build_untrained("qwen3_vl", folder)).to_dict()
    shared = {name: config[name] for name in config if name.endswith("token_id")}
    text, vision = config["text_config"], config["vision_config"]
    text |= more | {
        "num_hidden_layers": 3,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_key_head_dim": 64,
        "linear_value_head_dim": 64,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    }
    text["rope_parameters"] |= {"partial_rotary_factor": 0.5, "mrope_section": [3, 3, 2]}
    del text["model_type"], vision["model_type"], vision["deepstack_visual_indexes"]
    torch.manual_seed(5)
    model = AutoModelForImageTextToText.from_config(
        kind(text_config=text, vision_config=vision, tie_word_embeddings=True, **shared),
        dtype=torch.float32,
    )
    for layer in model.model.language_model.layers:
        if layer.block_type == "linear_attention":
            rates = torch.linspace(-4, -2, len(layer.linear_attn.A_log))
            layer.linear_attn.A_log.data.copy_(rates)
    model.save_pretrained(folder)
    return folder


def build_wide(source: Path, folder: Path) -> Path:
    """Write an untrained checkpoint of the family of `source`, four times as wide and four layers
    deep, with its processor."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    text |= {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}
    text |= {"num_attention_heads": 8, "num_key_value_heads": 4}
    widths = [name for name in text if name.endswith("expert_intermediate_size")]
    text |= dict.fromkeys([*widths, *(["moe_intermediate_size"] if widths else [])], 128)
    if "layer_types" in text:
        text["layer_types"] = ["full_attention"] * 4
    if "linear_num_key_heads" in text:
        text["layer_types"][::2] = ["linear_attention"] * 2
        text |= {"linear_key_head_dim": 64, "linear_value_head_dim": 64}
    vision |= {"num_heads": 8, "intermediate_size": 512, "out_hidden_size": 256}
    if "embed_dim" in vision:  # Qwen2-VL, which calls the widths so
        vision |= {"embed_dim": 256, "hidden_size": 256}
    else:
        vision["hidden_size"] = 256
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    wide = AutoModelForImageTextToText.from_config(
        AutoConfig.from_pretrained(folder), dtype=torch.float32
    )
    wide.save_pretrained(folder)
    return folder


def sharp_policy(folder: Path, *, scale: float = 1.5, freeze: Sequence[str] = ()) -> Policy:
    """Load the policy of a checkpoint with its matrices scaled up."""
    policy = Policy.from_pretrained(str(folder), freeze=freeze)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(scale)
    return policy


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Return coarse noise in colour: every patch is different, and so is every image."""
    pixels = np.random.default_rng((seed, height, width)).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def png(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return a PNG file that claims a size and holds no pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def problem(question: str, *sizes: tuple[int, int], uid: str = "p-7") -> Problem:
    """Return a problem with one image of each size."""
    images = tuple(png(picture(*size, seed=index)) for index, size in enumerate(sizes))
    return Problem(uid=uid, question=question, answer="21", images=images)


def prompts_of(encoder: PromptEncoder, name: str) -> list[Prompt]:
    """Encode one of `PROBLEMS`; uids are their places."""
    described = enumerate(PROBLEMS[name])
    return [encoder.encode(problem(*parts, uid=str(index))) for index, parts in described]


def completion_of(token_ids: Sequence[int]) -> Completion:
    """Return a completion of which only the ids matter."""
    ids = torch.tensor(token_ids, dtype=torch.int64)
    return Completion(ids, torch.zeros(len(ids)), "length", "")


def random_rows(prompts: Sequence[Prompt], lengths: Sequence[int], seed: int = 0) -> Rows:
    """Give each prompt a group of completions of these lengths; the last row of each is masked."""
    generator = torch.Generator().manual_seed(seed)
    groups = [
        [completion_of(torch.randint(350, (n,), generator=generator).tolist()) for n in lengths]
        for _ in prompts
    ]
    trained = torch.ones(len(prompts), len(lengths), dtype=torch.bool)
    trained[:, -1] = False
    return Rows.build(prompts, groups, trained)
