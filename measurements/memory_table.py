"""The memory of published sizes of Qwen-VL, by the arithmetic of `vlm_rl.memory`:

    python -m measurements.memory_table

Prints the table of docs/gpus_and_memory.md. `python -m vlm_rl.hardware --config X.yaml` says what
one run needs.
"""

import argparse
from typing import Any

import vlm_rl  # noqa: F401  (before anything that imports torchvision)

# isort: split
from transformers import Qwen2_5_VLConfig, Qwen3_5Config, Qwen3VLMoeConfig

from vlm_rl.hardware import GB
from vlm_rl.memory.estimate import PHASES, Setup, estimate
from vlm_rl.memory.model_shape import ModelShape
from vlm_rl.model.lora import LoraSettings
from vlm_rl.show.markdown import Markdown, table

SIZES = {
    # hidden, layers, heads, key heads, MLP, vocabulary, MLP of the tower, tied
    "3B": (2048, 36, 16, 2, 11008, 151936, 3420, True),
    "7B": (3584, 28, 28, 4, 18944, 152064, 3420, False),
    "32B": (5120, 64, 40, 8, 27648, 152064, 3456, False),
    "72B": (8192, 80, 64, 8, 29568, 152064, 3456, False),
}
"""Qwen2.5-VL, from memory of each `config.json`, not read from the hub. The number of parameters
that follows agrees with the published one, which a test has beside it."""

LATER = {
    "3.5-4B": Qwen3_5Config(
        text_config={
            "hidden_size": 2560,
            "num_hidden_layers": 32,  # every fourth one with attention
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "intermediate_size": 9216,
            "vocab_size": 248320,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 32,
        },
        vision_config={
            "depth": 24,
            "hidden_size": 1024,
            "num_heads": 16,
            "intermediate_size": 4096,
            "out_hidden_size": 2560,
        },
        tie_word_embeddings=True,
    ),
    "30B-A3B": Qwen3VLMoeConfig(
        text_config={
            "hidden_size": 2048,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "vocab_size": 151936,
        },
        vision_config={
            "depth": 27,
            "hidden_size": 1152,
            "num_heads": 16,
            "intermediate_size": 4304,
            "out_hidden_size": 2048,
        },
        tie_word_embeddings=False,
    ),
}
"""Qwen3.5-4B, without the layer that predicts a second token, and Qwen3-VL-30B-A3B: widths from
copies of each `config.json` in public repositories, not read from the hub. The number of parameters
that follows is exactly what two others have counted in the published weights."""

NUM_GPUS = (1, 2, 4, 8, 16)
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, offloaded": {},
    "frozen tower": {"freeze": ("vision_tower",)},
    "LoRA": {"lora": LoraSettings()},
}


def published_config(size: str) -> Any:
    """Return the transformers configuration of a model in `SIZES` or `LATER`."""
    if size in LATER:
        return LATER[size]
    hidden, layers, heads, key_heads, mlp, vocabulary, tower_mlp, tied = SIZES[size]
    text = {"hidden_size": hidden, "num_hidden_layers": layers, "vocab_size": vocabulary}
    text |= {"num_attention_heads": heads, "num_key_value_heads": key_heads}
    text |= {"intermediate_size": mlp}
    tower = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "out_hidden_size": hidden}
    tower |= {"intermediate_size": tower_mlp}
    return Qwen2_5_VLConfig(text_config=text, vision_config=tower, tie_word_embeddings=tied)


def memory_table() -> str:
    """Return GB in training on each GPU.

    Bold if 80 GB are enough with vLLM in it, which has 8 GB for keys and values, plain if they are
    with vLLM elsewhere, in brackets if they are not.
    """
    rows = []
    for size in (*SIZES, *LATER):
        full = ModelShape(published_config(size))
        for method, arguments in METHODS.items():
            model = ModelShape(published_config(size), **arguments) if arguments else full
            offload = "offloaded" in method
            rows.append([size, method, *(_cell(model, number, offload) for number in NUM_GPUS)])
    return table(["", "", *map(str, NUM_GPUS)], rows)


def _cell(model: ModelShape, gpus: int, offload: bool) -> object:
    strategy = "fsdp2_offload" if offload else "fsdp2" if gpus > 1 else "auto"
    alone = estimate(model, Setup(gpus, strategy=strategy, engine="elsewhere"))
    shown = f"{max(map(alone.needed, PHASES)) / GB:.0f}"
    if estimate(model, Setup(gpus, strategy=strategy, cache_bytes=int(8 * GB))).fits(80 * GB):
        return Markdown("**{}**").format(shown)
    return shown if alone.fits(80 * GB) else f"({shown})"


def main() -> None:
    """Print the table; there are no arguments but --help."""
    form = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=form).parse_args()
    print(memory_table())


if __name__ == "__main__":
    main()
