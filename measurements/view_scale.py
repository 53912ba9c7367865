"""How large an index of `vlm_rl.view` gets, and how long its pages take, on a made-up run:

    python -m measurements.view_scale --folder /tmp/large --steps 1000 --completions 4096

Writes the rollout files of such a run (some 500 bytes a completion), indexes them, and asks for
each kind of page over HTTP, three times. Prints CPU seconds, which a busy machine does not change,
and the size on the disk.
"""

import argparse
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from vlm_rl.show.json_text import json_text
from vlm_rl.show.screen import say
from vlm_rl.view.__main__ import listen, open_folders, serving

GROUP = 8
PROBLEMS = 20_000
VERDICTS = ("correct", "wrong", "wrong", "unparsable")
WORDS = ("the", "angle", "of", "triangle", "side", "so", "area", "then", "add", "and", "two")


def main() -> None:
    """Write, index, ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--completions", type=int, default=4096, help="of a step")
    options = parser.parse_args()
    for step in range(1, options.steps + 1):
        _write(options.folder, step, options.completions)
    rollouts = sum(path.stat().st_size for path in (options.folder / "rollouts").iterdir())
    viewed = open_folders([options.folder])
    index = next(iter(viewed.values())).index
    spent, _ = _cpu(index.refresh)
    size = index.path.stat().st_size
    number = options.steps * options.completions
    say(f"{number} completions, {rollouts / 2**30:.2f} GiB of rollouts")
    say(f"index: {spent:.1f} s CPU, {size / 2**20:.0f} MiB, {size / rollouts:.1%} of the rollouts")
    again, _ = _cpu(index.refresh)
    say(f"index again, nothing new: {again:.3f} s CPU")
    run = next(iter(viewed))
    last = options.steps << 32
    uid = f"problem-{options.steps * (options.completions // GROUP) % PROBLEMS}"
    pages = {
        "problems by accuracy": f"/r/{run}/problems",
        "problems by change": f"/r/{run}/problems?order=-change",
        "problems by text": f"/r/{run}/problems?q=number+77",
        "a group": f"/r/{run}/problem?uid={uid}",
        "completions": f"/r/{run}/completions",
        "completions, rare verdict": f"/r/{run}/completions?verdict=timeout",
        "completions, long and wrong": f"/r/{run}/completions?verdict=wrong&shortest=119",
        "completions, none so long": f"/r/{run}/completions?shortest=100000",
        "completions of one step": f"/r/{run}/completions?step={options.steps // 2}",
        "text search, common": f"/r/{run}/completions?q=triangle",
        "text search, nowhere": f"/r/{run}/completions?q=nowhere",
        "a completion": f"/r/{run}/completion/{last}/0",
        "curves": "/",
    }
    with serving(viewed, listen(0)) as address:
        for name, page in pages.items():
            times = [_cpu(lambda page=page: _get(address + page)) for _ in range(3)]
            cpu = ", ".join(f"{seconds:.2f}" for seconds, _ in times)
            say(f"{name}: {cpu} s CPU, wall {min(wall for _, wall in times):.2f} s")


def _write(folder: Path, step: int, completions: int) -> None:
    target = folder / "rollouts" / f"step_{step:06d}.jsonl"
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    chance = random.Random(step)
    lines = []
    for group in range(completions // GROUP):
        problem = (step * (completions // GROUP) + group) % PROBLEMS
        lines += [json_text(_row(chance, problem)) + "\n" for _ in range(GROUP)]
    target.write_text("".join(lines))


def _row(chance: random.Random, problem: int) -> dict[str, Any]:
    length = chance.randint(20, 120)
    verdict = chance.choice(VERDICTS)
    return {
        "uid": f"problem-{problem}",
        "source": f"source {problem % 3}",
        "question": f"What is number {problem}?",
        "answer": str(problem % 97),
        "images": [],
        "completion": " ".join(chance.choices(WORDS, k=length // 2)),
        "verdict": verdict,
        "rule": "number: another value",
        "reward": float(verdict == "correct"),
        "terms": {"accuracy": float(verdict == "correct")},
        "length_tokens": length,
        "finish_reason": "stop",
        "trained": True,
        "advantage": chance.gauss(0, 1),
        "token_ids": [chance.randint(0, 999) for _ in range(10)],
    }


def _get(url: str) -> None:
    requests.get(url).raise_for_status()


def _cpu(work: Callable[[], Any]) -> tuple[float, float]:
    """Return CPU and wall seconds of this process for `work`."""
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - began


if __name__ == "__main__":
    main()
