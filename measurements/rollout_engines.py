"""Rollout tokens per second of the engines, in one run: 32 prompts x 8 completions.

    python -m measurements.rollout_engines [--policy data_prep/warm_start] [--server]

Every engine samples the same prompts with images, `--rounds` times in turn, so that other load on
the machine slows all of them. Prints the median round, and each engine's speed as a share of the
first one's. The first round of each is not counted. All engines sample from the same policy, at
temperature 1, at most `--tokens` tokens.
"""

import argparse
import io
import statistics
import time

import torch
from PIL import Image

import vlm_rl  # noqa: F401  (makes torchvision importable)
from data_prep import synthetic
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.records import Problem
from vlm_rl.rollout import Engine, Sampling, TransformersEngine, VLLMEngine, VLLMServer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="data_prep/warm_start")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--server", action="store_true", help="a vLLM server as well")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = Policy.from_pretrained(options.policy).to(device)
    encoder = PromptEncoder(options.policy, max_prompt_tokens=1024)
    prompts = [encoder.encode(problem) for problem in problems(options.prompts)]
    sampling = Sampling(1.0, options.tokens)
    engines: dict[str, Engine] = {"transformers": TransformersEngine(), "vLLM": VLLMEngine()}
    if options.server:
        engines["vLLM server"] = VLLMServer()
    speeds: dict[str, list[float]] = {name: [] for name in engines}
    for engine in engines.values():
        engine.start(policy, encoder, sampling)
    for seed in range(options.rounds + 1):
        for name, engine in engines.items():
            begin = time.perf_counter()
            groups = engine.generate(
                prompts, group_size=options.group_size, sampling=sampling, seed=seed
            )
            seconds = time.perf_counter() - begin
            tokens = sum(len(completion) for group in groups for completion in group)
            speeds[name].append(tokens / seconds)
    for engine in engines.values():
        engine.close()
    medians = {name: statistics.median(values[1:]) for name, values in speeds.items()}
    first = next(iter(medians.values()))
    print(f"{options.prompts} prompts x {options.group_size}, at most {options.tokens} tokens")
    for name, median in medians.items():
        print(f"{name:<14}{median:>9.0f} tokens/s  {median / first:.2f} of the first")


def problems(count: int) -> list[Problem]:
    """Return rendered problems, each with an image."""
    return [
        Problem(p.row("")["uid"], p.row("")["problem"], "?", images=(_png(p.image),))
        for p in synthetic.generate("train", count, seed=7)
    ]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
