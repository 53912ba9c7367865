"""Our policy update, old log-probs, rollout and whole step against TRL's `GRPOTrainer`.

    python -m measurements.vs_trl --json runs/vs_trl.json
    python -m measurements.vs_trl --points update_100,update_500,step_1 --pairs 5 --json FILE
    python -m measurements.vs_trl --growth answers prompts group images vocabulary --json FILE

Both sides do the same work on the same rows with the same weights, alternately in one process on
one thread; a figure is the median of `--pairs` pairs, in seconds of CPU, of a rollout for 1,000
sampled tokens. Before they are timed they must agree, to 1e-4 in log-probs, loss and gradient; if
they do not, the command stops. Each point has a process of its own, and so has each side's peak of
memory, which is what its first update adds.

TRL is at its best setting: no gradient checkpointing, no reference, a group in a forward, the head
for completion tokens alone as on a GPU. In brackets is TRL as it comes on a CPU: checkpointing, and
the head at all positions. An update is forward, loss and backward, without the optimizer. The model
is a random Qwen2.5-VL with the proportions of the 3B. In halves of a group TRL's update takes 3 to
6 % less time than whole, and less memory; a group is what both sides have here.

    update_L, old_L       a group of 8 answers of L tokens, a prompt of 324 image + 84 other tokens
    update_text_L         a prompt of 400 tokens without an image
    update_image1024_L    1,024 image tokens
    update_vocab152k_L    a smaller model with 151,936 tokens, where the head dominates
    rollout_T             8 answers to each of 4 such prompts, at most T tokens (nearly all have T)
    step_1, step_2        the quickstart's step, 16 x 8 answers of at most 64 tokens, with one or
                          two updates: all of `vlm_rl.fit` against all of `GRPOTrainer.train`

`--growth` measures updates along what grows and draws them beside the JSON file. `--scale tiny`
runs all of it in little time, to test the command.

TRL is among the project's `dev` dependencies. In an environment of its own, from the same pins:

    python3 -m venv .venv-trl
    .venv-trl/bin/pip install --constraint constraints.txt --editable . \\
        --requirement measurements/requirements-trl.txt
    .venv-trl/bin/python -m measurements.vs_trl --json runs/vs_trl.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measurements.against_trl import points as known
from measurements.against_trl import report
from measurements.against_trl.points import Point
from vlm_rl.show.figures import save
from vlm_rl.show.json_text import json_text
from vlm_rl.show.screen import Screen, track

ALONE = {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "DS_ACCELERATOR": "cpu",
    "WANDB_MODE": "disabled",
}
"""Of each worker: one thread on the CPU, and nothing from a network."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write; return what the JSON file holds."""
    options = _parse(argv)
    screen = Screen()
    entries: dict[str, Any] = {}
    for point in track(options.chosen, "points"):
        entries[point.name] = measure(point, options.pairs, with_memory=options.memory)
        # what is done is kept if a later point fails
        options.json.write_text(json_text(entries, indent=2) + "\n")
    report.show(entries, screen)
    if options.growth:
        picture = options.json.with_suffix(".png")
        save(report.growth_figure(entries, options.growth), picture)
        screen.put(f"curves: {picture}")
    return entries


def measure(point: Point, num_pairs: int, *, with_memory: bool) -> dict[str, Any]:
    """Return the entry of a point: times, ratios, and of an update the peaks of memory."""
    entry: dict[str, Any] = _work(point, f"--pairs={num_pairs}")
    entry["memory_ratio"] = None
    if with_memory and point.has_memory:
        for side in ("ours", "trl"):
            entry[side]["peak_mib"] = _work(point, f"--peak={side}")
        entry["memory_ratio"] = entry["trl"]["peak_mib"] / entry["ours"]["peak_mib"]
    return entry


def _work(point: Point, task: str) -> Any:
    """Return what a worker has measured. Raises SystemExit with its last line if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        module = "measurements.against_trl.worker"
        done = subprocess.run(
            [sys.executable, "-m", module, json.dumps(asdict(point)), task, f"--json={result}"],
            env=os.environ | ALONE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        if done.returncode != 0:
            last = done.stdout.strip().rpartition("\n")[2]
            raise SystemExit(f"measurements.vs_trl: {point.name}: {last}")
        return json.loads(result.read_text())


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, with the points to measure as `chosen`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", help=f"names with commas between; default: {known.DEFAULT}")
    parser.add_argument("--growth", nargs="+", choices=known.GROWTH, default=[])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--scale", choices=("standard", "tiny"), default="standard")
    options = parser.parse_args(argv)
    if options.pairs < 1:
        parser.error(f"--pairs must be >= 1, got {options.pairs}")
    names = options.points or ("" if options.growth else known.DEFAULT)
    try:
        chosen = [known.named(name) for name in names.split(",") if name]
    except ValueError as error:
        parser.error(f"--points: {error}")
    chosen += [point for series in options.growth for point in known.GROWTH[series]]
    options.chosen = [point.tiny() for point in chosen] if options.scale == "tiny" else chosen
    options.json.parent.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    main()
