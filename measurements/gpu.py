"""Speed, MFU and memory of update and rollout on one GPU, ours and TRL's, in under 10 minutes.

    python -m measurements.gpu --json runs/gpu.json     (one GPU of 141 GB, as an H200)
    python -m measurements.gpu --scale tiny --json FILE (a CPU, a minute: tests the command)

A random Qwen2.5-VL-3B computes in bfloat16 with float32 weights and gradient checkpointing, on both
sides. The real image processor encodes random images of real sizes. An update is forward, loss and
backward over all groups, while gradients and AdamW's moments are in memory, without the step of the
optimizer. A rollout samples with the trainer's own model: `TransformersEngine`, and `generate` as
TRL calls it.

Tokens are those of the answers, the same for both, and so is the work that MFU counts, by
`vlm_rl.metrics.flops`: what the mathematics needs, neither what checkpointing computes again nor a
prompt computed for every answer. Memory stands beside the arithmetic of `vlm_rl.memory`.
Before anything is timed the log-probs of a group must agree, in bfloat16 to 0.05 on average.

TRL is as it comes on a GPU: checkpointing, the head for completion tokens only, a group in a
forward. What has not begun after `--limit_s` is left out and named. It has not been run on a GPU.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import vlm_rl  # noqa: F401  (before anything that imports torchvision)

# isort: split
import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from measurements.against_trl.agreement import LIMIT, Differ
from measurements.against_trl.ours import Ours
from measurements.against_trl.points import Point
from measurements.against_trl.shapes import build_rows, random_advantages
from measurements.against_trl.timing import timed
from measurements.random_qwen import (
    SCALES,
    build_config,
    build_encoder,
    build_policy,
    build_prompts,
)
from vlm_rl.hardware import GB
from vlm_rl.memory.estimate import Setup, estimate
from vlm_rl.memory.model_shape import ModelShape
from vlm_rl.metrics.devices import peak_tflops_here
from vlm_rl.metrics.flops import ModelFlops
from vlm_rl.metrics.flops import Work as Counted
from vlm_rl.records import Batch, Rows
from vlm_rl.show.json_text import json_text
from vlm_rl.show.screen import Screen

ATTENTIONS: dict[str, Callable[[], AbstractContextManager[Any]]] = {"as it is": nullcontext}
"""Ways of the policy to attend, each a context in which it is used; all do the same update."""

HALF_LIMIT = 0.05


class Work:
    """What both sides do: a group of random answers of one length to each of the prompts."""

    def __init__(self, options: argparse.Namespace) -> None:
        scale = SCALES[options.scale]
        self.options = options
        self.num_parameters = scale.num_parameters
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.config = build_config(scale)
        self.encoder = build_encoder(options.max_pixels)
        self.prompts = build_prompts(self.encoder, scale.sizes, options.prompts)
        point = Point("gpu", "update", options.tokens, group_size=options.group_size)
        self.rows = build_rows(point, self.prompts)
        with torch.device("meta"):
            count = ModelFlops(build_policy(self.config, self.num_parameters))
        self.flops = count.training(Counted.of_rows(self.rows))

    def forwards(self) -> Iterator[Rows]:
        return self.rows.micro_batches(self.options.micro_batch_tokens)

    def batch(self, old_logprobs: Tensor) -> Batch:
        """Complete the rows, on the device, with an advantage of about 1 for each answer."""
        return Batch.of(
            self.rows,
            old_logprobs=old_logprobs,
            ref_logprobs=None,
            advantages=random_advantages(self.rows),
        ).to(self.device)

    def speed(self, seconds: float) -> dict[str, float | None]:
        """Return the numbers of an update of all groups in so many seconds."""
        peak = self.options.peak_tflops or peak_tflops_here()
        return {
            "seconds": seconds,
            "answer_tokens_per_s": int(self.rows.completion_mask.sum()) / seconds,
            "tflop": self.flops / 1e12,
            "mfu": None if peak is None else self.flops / seconds / (peak * 1e12),
        }

    def repeated(self, update: Callable[[], Any]) -> float:
        """Return the median seconds of the updates, the first of which is not counted."""
        seconds = [timed(update, self.device)[0] for _ in range(self.options.rounds + 1)]
        return statistics.median(seconds[1:])

    def rolled_out(self, sample: Callable[[int], Sequence[Sequence[Any]]]) -> dict[str, float]:
        """Measure `sample`, which takes a limit and returns answers; a short one warms up."""
        sample(2)
        seconds, answers = timed(lambda: sample(self.options.tokens), self.device)
        tokens = sum(map(len, answers))
        return {"seconds": seconds, "tokens": tokens, "tokens_per_s": tokens / seconds}

    def peak_gb(self, update: Callable[[], Any], model: nn.Module) -> float | None:
        """Return the peak of an update with AdamW's moments in memory, None without a GPU."""
        if self.device.type != "cuda":
            return None
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
        update()
        optimizer.step()  # lr 0: makes the moments and moves nothing
        torch.cuda.reset_peak_memory_stats()
        update()
        return torch.cuda.max_memory_allocated() / GB

    def estimated_gb(self) -> float:
        """Return what `vlm_rl.memory` says of the same update."""
        options = self.options
        setup = Setup(
            half=self.device.type == "cuda",
            micro_batch_tokens=options.micro_batch_tokens,
            max_prompt_tokens=max(map(len, self.prompts)),
            max_completion_tokens=options.tokens,
            group_size=options.group_size,
            engine="elsewhere",
        )
        return estimate(ModelShape(self.config), setup).needed("update") / GB


def ours(work: Work, shared: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each part of our side by name; leave the log-probs of the first group in `shared`."""
    with work.device:
        policy = build_policy(work.config, work.num_parameters)
    unfinished = work.batch(torch.zeros(work.rows.completion_mask.shape))
    first = Ours(policy, unfinished.select(torch.arange(work.options.group_size)))
    with first.nothing_banned():
        shared["logprobs"] = first.logprobs().cpu()

    def old_logprobs() -> Tensor:
        batches = unfinished.micro_batches(work.options.micro_batch_tokens)
        return torch.cat([Ours(policy, batch).logprobs() for batch in batches])

    seconds = work.repeated(old_logprobs)
    yield "old", {"seconds": seconds}
    batch = work.batch(old_logprobs())
    sides = [Ours(policy, part) for part in batch.micro_batches(work.options.micro_batch_tokens)]

    def update() -> float:
        return sum(side.update() for side in sides)

    for name, attention in ATTENTIONS.items():
        with attention():
            speed = work.speed(work.repeated(update))
            yield f"update, attention {name}", speed | {"loss": update()}
    peak = work.peak_gb(update, policy)
    yield "memory", {"peak_gb": peak, "estimated_gb": work.estimated_gb()}
    first.start_engine(work.encoder, work.options.tokens)

    def sample(limit: int) -> list[Any]:
        groups = first.rollout(work.prompts, work.options.group_size, limit, seed=0)
        return [completion for group in groups for completion in group]

    yield "rollout", work.rolled_out(sample)


def theirs(work: Work, shared: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each part of TRL's side by name. Raises Differ if it computes other log-probs."""
    from measurements.against_trl.trl_side import Theirs

    torch.manual_seed(0)
    with work.device:
        model = AutoModelForImageTextToText.from_config(work.config, dtype=torch.float32)
    batch = work.batch(torch.zeros(work.rows.completion_mask.shape))
    size = work.options.group_size
    groups = [batch.select(torch.arange(i, i + size)) for i in range(0, len(batch), size)]
    side = Theirs(model, work.encoder, groups[0], on_gpu=work.device.type == "cuda")
    side.use("as_it_comes")
    refuse_difference(shared["logprobs"], side.logprobs().cpu(), half=work.device.type == "cuda")

    def update() -> None:
        for group in groups:
            side.take(group)
            side.update()

    def old_logprobs() -> None:
        for group in groups:
            side.take(group)
            side.logprobs()

    yield "old", {"seconds": work.repeated(old_logprobs)}
    yield "update", work.speed(work.repeated(update))
    yield "memory", {"peak_gb": work.peak_gb(update, model)}
    yield "rollout", work.rolled_out(lambda limit: side.rollout(work.prompts, size, limit))


def refuse_difference(ours: Tensor, theirs: Tensor, *, half: bool) -> None:
    """Raise Differ unless the log-probs of a group agree as far as their precision allows."""
    difference, limit = (ours - theirs).abs(), HALF_LIMIT if half else LIMIT
    apart = float(difference.mean() if half else difference.max())
    if not apart <= limit:
        raise Differ(
            f"the log-probs of the two sides differ by {apart:.2g}, above {limit:g}; "
            "nothing of TRL is timed until they agree"
        )


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write; return what the JSON file holds."""
    options = parse(argv)
    start, work, shared = time.monotonic(), Work(options), {}
    name = torch.cuda.get_device_name() if work.device.type == "cuda" else "CPU"
    result: dict[str, Any] = {"device": name, "ours": {}, "trl": {}, "left_out": []}
    screen = Screen()
    for side, parts in (("ours", ours), ("trl", theirs)):
        if time.monotonic() - start > options.limit_s:
            result["left_out"].append(side)
            continue
        for part, entry in parts(work, shared):
            result[side][part] = entry
            show(screen, side, part, entry)
            if time.monotonic() - start > options.limit_s:
                result["left_out"].append(f"{side} after {part}")
                break
        gc.collect()  # the other side needs its memory
        torch.cuda.empty_cache()
    for rest in result["left_out"]:
        screen.put(f"left out after {options.limit_s:g} s: {rest}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json_text(result, indent=2) + "\n")
    return result


def show(screen: Screen, side: str, part: str, entry: dict[str, Any]) -> None:
    shown = ("not known" if value is None else f"{value:.4g}" for value in entry.values())
    facts = ", ".join(f"{key} {value}" for key, value in zip(entry, shown, strict=True))
    screen.put(f"{side}, {part}: {facts}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="3b")
    for name in SCALES["3b"].work:
        parser.add_argument(f"--{name}", type=int, help="default: that of the scale")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peak_tflops", type=float, help="of the device, dense bfloat16")
    parser.add_argument("--limit_s", type=float, default=480.0)
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")
    options = parser.parse_args(argv)
    for name, value in SCALES[options.scale].work.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


if __name__ == "__main__":
    main()
