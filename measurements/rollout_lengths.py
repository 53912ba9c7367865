"""Tokens per CPU second of the transformers engine against `generate`, by length of completion.

    OMP_NUM_THREADS=1 python -m measurements.rollout_lengths --tokens 64 256 512
    OMP_NUM_THREADS=1 python -m measurements.rollout_lengths --tokens 512 --way engine

`generate` is called as TRL's GRPOTrainer does: one batch, prompt and pixels repeated for every
completion. Both sample with the same temperature and banned tokens, in turn, from a random
Qwen2.5-VL of width 512 with 8 layers and a vocabulary of 4,096, so that the head is a tenth of the
work as in a 3B. "early" makes so many tokens stop tokens that a completion ends at about 0.43 of
the limit on average; in "full" none ends early. With `--way` only that one runs, and what it adds
to the peak memory of the process is printed.

Prompts of 134 tokens, groups of 8, one CPU thread beside other work, tokens per CPU second; one
round each at 256 and 512, so without a spread, and other numbers of prompts (`--prompts`):

    limit  ends   prompts  rounds  engine  generate  ratio
       64  full         4       3     860       291   2.86
       64  early        4       3     391       105   3.16
      256  full         2       1     515       334   1.54
      256  full        16       1    1229       504   2.44
      512  full         8       1     852       502   1.70

The fewer the rows, the more of the work is reading weights, which both do alike.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from transformers import AutoModelForImageTextToText, GenerationConfig

from measurements.random_qwen import SCALES, build_config, build_encoder, build_prompts
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.records import Prompt
from vlm_rl.rollout import Sampling, TransformersEngine

TEXT = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
}
TOWER = {
    "depth": 8,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_heads": 4,
    "out_hidden_size": 512,
    "fullatt_block_indexes": [3, 7],
}
Rollout = Callable[[int, int], list[int]]
"""From the limit and a seed to the lengths of all completions."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--group_size", type=int, default=8)
    parser.add_argument("--image", type=int, default=280, help="side of the image in pixels")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ends", nargs="+", choices=["full", "early"], default=["full", "early"])
    parser.add_argument("--way", choices=["engine", "generate"], help="only this one")
    arguments = parser.parse_args()
    policy = build_policy(arguments.vocabulary)
    encoder = build_encoder(max_pixels=1 << 20)
    prompts = build_prompts(encoder, [(arguments.image, arguments.image)], arguments.prompts)
    print(f"{arguments.prompts} prompts of {len(prompts[0])} tokens x {arguments.group_size}")
    for limit in arguments.tokens:
        for ends in arguments.ends:
            stops = stop_ids(ends, limit, arguments.vocabulary)
            ways = {
                "engine": engine(policy, encoder, prompts, arguments.group_size, stops),
                "generate": generate(policy, prompts, arguments.group_size, stops),
            }
            for rollout in ways.values():
                rollout(2, 0)  # the first call of each is not counted
            if arguments.way:
                one = {arguments.way: ways[arguments.way]}
                before = peak_mib()
                speeds = compare(one, limit, rounds=1)
                print(f"{limit} {ends}: {speeds} tokens/s, {peak_mib() - before:.0f} MiB")
                continue
            speeds = compare(ways, limit, arguments.rounds)
            ratios = [a / b for a, b in zip(speeds["engine"], speeds["generate"], strict=True)]
            medians = {way: round(statistics.median(x)) for way, x in speeds.items()}
            spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
            ratio = f"{statistics.median(ratios):.2f} {spread}"
            print(f"{limit:>5} {ends:<6} tokens/CPU s {medians}, ratio {ratio}", flush=True)


def compare(ways: dict[str, Rollout], limit: int, rounds: int) -> dict[str, list[float]]:
    """Return tokens per CPU second of each way and round, run in turn."""
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for seed in range(rounds):
        for way, rollout in ways.items():
            begin = time.process_time()
            tokens = sum(rollout(limit, seed))
            speeds[way].append(round(tokens / (time.process_time() - begin), 1))
    return speeds


def engine(
    policy: Policy,
    encoder: PromptEncoder,
    prompts: Sequence[Prompt],
    group_size: int,
    stops: list[int],
) -> Rollout:
    started = TransformersEngine()
    started.start(policy, encoder, Sampling())
    started._stop_ids = torch.tensor(stops)

    def rollout(limit: int, seed: int) -> list[int]:
        sampling = Sampling(max_completion_tokens=limit)
        groups = started.generate(prompts, group_size=group_size, sampling=sampling, seed=seed)
        return [len(completion) for group in groups for completion in group]

    return rollout


def generate(
    policy: Policy, prompts: Sequence[Prompt], group_size: int, stops: list[int]
) -> Rollout:
    rows = [prompt for prompt in prompts for _ in range(group_size)]
    width = max(map(len, rows))
    token_ids = torch.zeros(len(rows), width, dtype=torch.int64)
    attention = torch.zeros_like(token_ids)
    for row, prompt in enumerate(rows):
        token_ids[row, width - len(prompt) :] = prompt.token_ids
        attention[row, width - len(prompt) :] = 1
    batch = {
        "input_ids": token_ids,
        "attention_mask": attention,
        "pixel_values": torch.cat([p.pixel_values for p in rows if p.pixel_values is not None]),
        "image_grid_thw": torch.cat([p.grid_thw for p in rows if p.grid_thw is not None]),
        "mm_token_type_ids": (token_ids == policy.model.config.image_token_id).long(),
    }
    ends = torch.tensor(stops)

    def rollout(limit: int, seed: int) -> list[int]:
        torch.manual_seed(seed)
        config = GenerationConfig(
            max_new_tokens=limit,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            pad_token_id=0,
            eos_token_id=stops,
            suppress_tokens=policy.banned_ids.tolist(),
            disable_compile=True,
        )
        with policy.evaluating():
            sampled = policy.model.generate(**batch, generation_config=config)[:, width:]
        ended = torch.isin(sampled, ends)
        first = ended.int().argmax(1) + 1
        return first.where(ended.any(1), torch.tensor(sampled.shape[1])).tolist()

    return rollout


def stop_ids(ends: str, limit: int, vocabulary: int) -> list[int]:
    """Return stop tokens; "full" has one that is never sampled, since it is out of the head."""
    if ends == "full":
        return [vocabulary + 1]
    return list(range(500, 500 + round(2 * vocabulary / limit)))


def build_policy(vocabulary: int) -> Policy:
    text = {**TEXT, "vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": None}
    config = build_config(replace(SCALES["3b"], text=text, vision=TOWER))
    torch.manual_seed(0)
    return Policy(AutoModelForImageTextToText.from_config(config, dtype=torch.float32))


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
