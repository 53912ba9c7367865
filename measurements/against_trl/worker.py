"""One point in a process of its own, started by `measurements.vs_trl`:

python -m measurements.against_trl.worker JSON_OF_POINT --pairs N --json FILE
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import vlm_rl  # noqa: F401  (before anything that imports torchvision)

# isort: split
import torch

from measurements.against_trl import shapes, step, timing
from measurements.against_trl.agreement import check, near_old_logprobs
from measurements.against_trl.ours import Ours
from measurements.against_trl.points import Point
from measurements.against_trl.trl_side import SETTINGS, Setting, Theirs
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.records import Batch, Prompt
from vlm_rl.show.json_text import json_text

CPU = torch.device("cpu")


def build(point: Point) -> tuple[Ours, Theirs, PromptEncoder, list[Prompt]]:
    """Return both sides with equal weights and rows, checked to agree."""
    if point.stage == "step":
        encoder, model = step.build_encoder(), step.build_model
        prompts = step.build_prompts(encoder)
    else:
        encoder = shapes.encoder_of(point)
        model = partial(shapes.build_model, point, encoder)
        prompts = shapes.build_prompts(point, encoder)
    policy = Policy(model())
    # of a long rollout a few tokens say as well whether the sides agree
    few = min(point.answer_tokens, 64)
    rows_point = point if point.stage in ("update", "old") else replace(point, answer_tokens=few)
    batch = build_batch(policy, rows_point, prompts)
    ours, theirs = Ours(policy, batch), Theirs(model(), encoder, batch)
    check(ours, theirs)
    return ours, theirs, encoder, prompts


def build_batch(policy: Policy, point: Point, prompts: list[Prompt]) -> Batch:
    """Return random answers with old log-probabilities near the policy's own."""
    rows = shapes.build_rows(point, prompts)
    with torch.no_grad():
        now = policy.logprobs(rows, temperature=1.0).logprobs
    return Batch.of(
        rows,
        old_logprobs=near_old_logprobs(now, rows.completion_mask),
        ref_logprobs=None,
        advantages=shapes.random_advantages(rows),
    )


def measure(point: Point, num_pairs: int) -> dict[str, Any]:
    """Return medians in CPU seconds, of a rollout for 1,000 tokens, and the ratios TRL / ours."""
    ours, theirs, encoder, prompts = build(point)
    if point.stage == "step":
        del ours, theirs
        return summary(step.measure(point, num_pairs))
    if point.stage == "rollout":
        return summary(_rollouts(point, num_pairs, ours, theirs, encoder, prompts))

    def work(side: Ours | Theirs) -> Callable[[], Any]:
        return side.update if point.stage == "update" else side.logprobs

    def of_trl(setting: Setting) -> Callable[[], float]:
        def run() -> float:
            theirs.use(setting)
            return timing.timed(work(theirs), CPU)[0]

        return run

    ways = {name: of_trl(setting) for name, setting in SETTINGS.items()}
    return summary(
        timing.alternate({"ours": lambda: timing.timed(work(ours), CPU)[0]} | ways, num_pairs)
    )


def _rollouts(
    point: Point,
    num_pairs: int,
    ours: Ours,
    theirs: Theirs,
    encoder: PromptEncoder,
    prompts: list[Prompt],
) -> dict[str, list[float]]:
    """Return CPU seconds for 1,000 sampled tokens; TRL has no other setting in a rollout."""
    size, limit = point.group_size, point.answer_tokens
    ours.start_engine(encoder, limit)
    seeds = iter(range(1 << 30))

    def per_1000(sample: Callable[[], Any]) -> float:
        torch.manual_seed(next(seeds))
        seconds, groups = timing.timed(sample, CPU)
        return 1000 * seconds / sum(map(len, groups))

    def sampled() -> list[Any]:
        groups = ours.rollout(prompts, size, limit, next(seeds))
        return [completion for group in groups for completion in group]

    ways = {
        "ours": lambda: per_1000(sampled),
        "trl": lambda: per_1000(lambda: theirs.rollout(prompts, size, limit)),
    }
    return timing.alternate(ways, num_pairs)


def summary(seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    """Return the entry of a point in the JSON file, still without memory."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    default = seconds.get("as_it_comes", seconds["trl"])
    return {
        "ratio": timing.median_ratio(seconds["trl"], seconds["ours"]),
        "ratio_as_it_comes": timing.median_ratio(default, seconds["ours"]),
        "trl": {
            "seconds": medians["trl"],
            "as_it_comes_seconds": medians.get("as_it_comes", medians["trl"]),
        },
        "ours": {"seconds": medians["ours"]},
        "pairs": dict(seconds),
    }


def peak_mib(point: Point, side: str) -> float:
    """Return what the first update of one side adds to the memory of this process."""
    encoder = shapes.encoder_of(point)
    prompts = shapes.build_prompts(point, encoder)
    model = shapes.build_model(point, encoder)
    rows = shapes.build_rows(point, prompts)
    batch = Batch.of(
        rows,
        old_logprobs=torch.zeros(rows.completion_mask.shape),
        ref_logprobs=None,
        advantages=shapes.random_advantages(rows),
    )
    worker = Ours(Policy(model), batch) if side == "ours" else Theirs(model, encoder, batch)
    return timing.added_peak_mib(worker.update)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure one point of measurements.vs_trl.")
    parser.add_argument("point", help="the fields of a Point as JSON")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--peak", choices=("ours", "trl"), help="only the memory of this side")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    point = Point(**json.loads(options.point))
    result = peak_mib(point, options.peak) if options.peak else measure(point, options.pairs)
    options.json.write_text(json_text(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
