"""Tiny real Qwen-VL checkpoints: untrained ones for tests, and the shipped, warm-started one.

    python -m data_prep.tiny_policy --output data_prep/warm_start --seed 0

builds a Qwen2.5-VL of 1.1 million parameters from its configuration. It gets a tokenizer of its own
(Qwen's class, special tokens and chat template; a vocabulary learned on the synthetic set) and
learns to answer some of that set (see `data_prep.supervise`). `build_untrained` makes smaller ones,
of several families, in under a second. Nothing is downloaded. All folders load with
`AutoProcessor.from_pretrained` and `AutoModelForImageTextToText.from_pretrained` once `vlm_rl` is
imported.

The chat template is Qwen's without its default system message, which would be a third of the
prompt.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLMoeConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from data_prep.scenes import (
    CELL,
    DIFFICULTIES,
    FAMILIES,
    STYLES,
    completion,
    draw_question,
    draw_scene,
)
from data_prep.supervise import WARM_START, warm_start
from vlm_rl.show.screen import bars, say

ModelFamily = Literal["qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"]

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PATCH, MERGE = CELL // 2, 2
HEAD_DIM = 32  # vLLM's CPU attention takes multiples of 32 only
NUM_MERGES = 112

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' or 'video' in part %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_untrained(family: ModelFamily, folder: str | Path, seed: int = 0) -> Path:
    """Save an untrained checkpoint of about 0.25 million parameters into `folder`; return it.

    `build_untrained("qwen3_vl", tmp_path / "policy", seed=0)` takes well under a second. It shares
    the tokenizer, the chat template and the patch of 8 pixels with the shipped warm start.
    """
    folder = Path(folder)
    processor = build_processor(family)
    policy = build_policy(family, processor.tokenizer, hidden=64, layers=2, vision=64, seed=seed)
    save(policy, processor, folder)
    return folder


def build_warm_start(seed: int = 0) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Return the Qwen2.5-VL of 1.1 million parameters that gets the warm start, still untrained."""
    processor = build_processor("qwen2_5_vl")
    policy = build_policy(
        "qwen2_5_vl", processor.tokenizer, hidden=128, layers=4, vision=96, seed=seed
    )
    return policy, processor


def build_policy(
    family: ModelFamily,
    tokenizer: Qwen2Tokenizer,
    *,
    hidden: int,
    layers: int,
    vision: int,
    seed: int,
) -> PreTrainedModel:
    """Return a float32 policy with tied embeddings and random weights; `vision` is the tower's
    width."""
    ends = {
        "bos_token_id": _id(tokenizer, "<|endoftext|>"),
        "eos_token_id": _id(tokenizer, "<|im_end|>"),
        "pad_token_id": _id(tokenizer, "<|endoftext|>"),
    }
    text = _text_config(-(-len(tokenizer) // 64) * 64, hidden, layers) | ends
    tower = _tower_config(vision, hidden)
    shared: dict[str, Any] = {
        "image_token_id": _id(tokenizer, "<|image_pad|>"),
        "video_token_id": _id(tokenizer, "<|video_pad|>"),
        "vision_start_token_id": _id(tokenizer, "<|vision_start|>"),
        "vision_end_token_id": _id(tokenizer, "<|vision_end|>"),
        "tie_word_embeddings": True,
    }
    if family == "qwen2_5_vl":
        tower |= {"window_size": 8 * CELL, "fullatt_block_indexes": [1], "tokens_per_second": 2}
        text["use_sliding_window"] = False
        config = Qwen2_5_VLConfig(text_config=text, vision_config=tower, **shared)
    else:
        tower |= {"num_position_embeddings": 256, "deepstack_visual_indexes": [0]}
        text["rope_parameters"]["mrope_interleaved"] = True
        if family == "qwen3_vl":
            config = Qwen3VLConfig(text_config=text, vision_config=tower, **shared)
        else:
            text |= {"num_experts": 8, "num_experts_per_tok": 2}
            text |= {"moe_intermediate_size": 3 * hidden // 4, "norm_topk_prob": True}
            config = Qwen3VLMoeConfig(text_config=text, vision_config=tower, **shared)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    policy.generation_config = GenerationConfig(**ends)
    return policy


def _id(tokenizer: Qwen2Tokenizer, token: str) -> int:
    token_id = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(token_id, int)
    return token_id


def _text_config(vocabulary: int, hidden: int, layers: int) -> dict[str, Any]:
    rotary = HEAD_DIM // 2
    section = [rotary - 2 * (3 * rotary // 8), 3 * rotary // 8, 3 * rotary // 8]
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // HEAD_DIM,
        "num_key_value_heads": max(1, hidden // HEAD_DIM // 2),
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 32768,
        "initializer_range": hidden**-0.5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": section},
        "tie_word_embeddings": True,
    }


def _tower_config(width: int, hidden: int) -> dict[str, Any]:
    return {
        "initializer_range": width**-0.5,
        "depth": 2,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_heads": width // HEAD_DIM,
        "patch_size": PATCH,
        "out_hidden_size": hidden,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "in_channels": 3,
    }


def build_processor(family: ModelFamily) -> ProcessorMixin:
    """Return tokenizer, image and video processor for patches of 8 pixels merged two by two.

    Images between 4 and 256 merged patches (1024 to 65536 pixels) keep their size.
    """
    tokenizer = build_tokenizer()
    patches = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
    sizes = {"min_pixels": 4 * CELL**2, "max_pixels": 256 * CELL**2}
    if family == "qwen2_5_vl":
        return Qwen2_5_VLProcessor(
            image_processor=Qwen2VLImageProcessor(**patches, **sizes),
            tokenizer=tokenizer,
            video_processor=Qwen2VLVideoProcessor(**patches),
            chat_template=CHAT_TEMPLATE,
        )
    half = [0.5, 0.5, 0.5]
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**patches, **sizes, image_mean=half, image_std=half),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**patches),
        chat_template=CHAT_TEMPLATE,
    )


def build_tokenizer() -> Qwen2Tokenizer:
    """Train a byte-level BPE: all bytes, so that any text survives, and merges for the set's
    vocabulary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Qwen2Tokenizer(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[])
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = bytes_only.backend_tokenizer.pre_tokenizer  # Qwen's: single digits
    size = len(alphabet) + NUM_MERGES
    learner.train_from_iterator(
        _corpus(),
        trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False),
    )
    learned = json.loads(learner.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(merge) for merge in learned["merges"]],
        unk_token=None,
        bos_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=8192,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    tokenizer.padding_side = "left"
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save(policy: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> None:
    """Write a checkpoint folder."""
    policy.save_pretrained(folder)
    processor.save_pretrained(folder)


def _corpus() -> Iterator[str]:
    rng = random.Random(0)
    for _ in range(200):
        for family in FAMILIES:
            for difficulty in DIFFICULTIES:
                scene = draw_scene(rng, family, difficulty)
                yield f"user\n{draw_question(rng, scene)}"
                yield from (f"assistant\n{completion(scene, style)}" for style in STYLES)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build and warm-start the tiny policy.")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument(
        "--untrained",
        action="store_true",
        help="a smaller one that ends at chance, after about 400",
    )
    arguments = parser.parse_args()
    if arguments.untrained:
        build_untrained("qwen2_5_vl", arguments.output, arguments.seed)
        say(f"the untrained tiny policy is in {arguments.output}")
        return
    # one thread, so that the sums, and so the weights, are the same on every run
    torch.set_num_threads(1)
    policy, processor = build_warm_start(arguments.seed)
    num_steps = sum(lesson.num_steps for lesson in WARM_START)
    with bars() as bar:
        task = bar.add_task("warm start", total=num_steps)
        for loss in warm_start(policy, processor):
            bar.update(task, advance=1, description=f"warm start, loss {loss:.3f}")
    save(policy, processor, arguments.output)
    say(f"the warm-started tiny policy is in {arguments.output}")


if __name__ == "__main__":
    main()
