"""Train for long, and through many restarts, and fit what grows.

    python -m measurements.soak --output runs/soak

Trains a tiny policy for 2,000 steps in one process, and samples that process and its children at
every step: resident memory, file descriptors, threads, children. Prints, for each, its values after
the first tenth and at the end, and the slope of a line through all samples after the first tenth
(least squares), in units per 1,000 steps. Then trains a second run of 500 steps that a SIGTERM
ends 50 times, each followed by the same command, and prints what the first and the last of these
processes held when they were ended, what is left in the folder that holds temporary files, and the
processes still there. The exit status is 1 if memory grows by more than 5 % of what it is per 1,000
steps, if anything else grows at all, or if a process or temporary file is left.

Arguments after `--` go to `vlm_rl.fit`.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from data_prep import synthetic
from measurements.kill_and_resume import SETTINGS, start
from vlm_rl.run.heartbeat import read_beats

MOST_GROWTH = 0.05
"""Of the resident memory, per 1,000 steps: what the allocator's noise may look like."""
WARM_UP = 0.1
"""The share of the steps in which caches and pools fill."""


class Held(NamedTuple):
    """What a process and its children hold after a step; memory in MiB."""

    step: int
    memory: float
    descriptors: int
    threads: int
    children: int


def held(process: psutil.Process, step: int) -> Held:
    """Return what a process holds now; its checking processes count."""
    family = [process, *process.children(recursive=True)]
    return Held(
        step,
        sum(member.memory_info().rss for member in family) / 2**20,
        sum(member.num_fds() for member in family),
        sum(member.num_threads() for member in family),
        len(family) - 1,
    )


def watch(pid: int, run_dir: Path, until: int) -> list[Held]:
    """Sample a training at each step that it completes, up to `until` or its end."""
    process, samples = psutil.Process(pid), list[Held]()
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        beats = [beat for beat in read_beats(run_dir / "heartbeat") if beat.pid == pid]
        step = beats[0].step if beats else 0
        if step > (samples[-1].step if samples else 0):
            try:
                samples.append(held(process, step))
            except psutil.NoSuchProcess:
                continue
            if step >= until:
                break
        time.sleep(0.01)
    return samples


def status_of(pid: int) -> int:
    """Wait for the end of a training; return its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def slope(samples: Sequence[Held], name: str) -> float:
    """Return how much of something is added per 1,000 steps, by least squares."""
    steps = [sample.step for sample in samples]
    values = [float(getattr(sample, name)) for sample in samples]
    return 1000 * statistics.linear_regression(steps, values).slope


def soak(settings: list[str], output: Path, steps: int) -> tuple[list[Held], bool]:
    """Train without a break; return the samples after the warm-up, and whether all stayed flat."""
    run_dir = output / "long"
    argv = [*settings, f"--run_dir={run_dir}", f"--steps={steps}"]
    (pid,) = start(argv, run_dir.with_suffix(".log"))
    samples = [s for s in watch(pid, run_dir, steps + 1) if s.step > WARM_UP * steps]
    if status := status_of(pid):
        raise RuntimeError(f"the training ended with status {status}: {run_dir}.log")
    flat = slope(samples, "memory") <= MOST_GROWTH * samples[0].memory
    counts = ("descriptors", "threads", "children")
    # a sample may fall between the open and the close of a file
    return samples, flat and all(round(slope(samples, n) * steps / 1000) <= 0 for n in counts)


def restarts(settings: list[str], output: Path, steps: int, count: int) -> tuple[list[Held], bool]:
    """End a training by SIGTERM so many times; return what each process held, and whether nothing
    was left behind."""
    run_dir, temporary = output / "restarted", output / "tmp"
    temporary.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    argv = [*settings, f"--run_dir={run_dir}", f"--steps={steps}"]
    last, family = [], list[psutil.Process]()
    for number in range(1, count + 1):
        (pid,) = start(argv, run_dir.with_suffix(".log"))
        last += watch(pid, run_dir, round(number * steps / (count + 1)))[-1:]
        family += psutil.Process(pid).children(recursive=True)
        os.kill(pid, signal.SIGTERM)
        if status := status_of(pid):
            raise RuntimeError(f"start {number} ended with status {status}: {run_dir}.log")
    (pid,) = start(argv, run_dir.with_suffix(".log"))
    if status := status_of(pid):
        raise RuntimeError(f"the last start ended with status {status}: {run_dir}.log")
    _, alive = psutil.wait_procs(family, timeout=10)
    left = [*temporary.iterdir(), *run_dir.rglob("*.partial"), *alive]
    if left:
        print("left behind:", *left, sep="\n  ", file=sys.stderr)
    return last, not left


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--restarts", type=int, default=50)
    parser.add_argument("--restarted_steps", type=int, default=500)
    parser.add_argument("fit", nargs="*", help="arguments of vlm_rl.fit, after --")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True)
    data = args.output / "data"
    for split, count in (("train", 48), ("val", 16)):
        synthetic.write(data, split, count, seed=0, difficulty=synthetic.DEFAULT_DIFFICULTY)
    sources = {name: json.dumps([{"path": f"{data}/{name}.jsonl"}]) for name in ("train", "val")}
    settings = [*SETTINGS, *(f"--data.{n}={v}" for n, v in sources.items())]
    settings += ["--checkpoint.every_n_steps=20", "--validation.every_n_steps=50", *args.fit]
    console = Console(width=110)
    began = time.monotonic()
    samples, flat = soak(settings, args.output, args.steps)
    table = Table("", f"step {samples[0].step}", f"step {samples[-1].step}", "per 1,000 steps")
    for name in Held._fields[1:]:
        values = [f"{getattr(sample, name):.5g}" for sample in (samples[0], samples[-1])]
        table.add_row(name, *values, f"{slope(samples, name):+.3f}")
    console.print(table)
    last, clean = restarts(settings, args.output, args.restarted_steps, args.restarts)
    table = Table("", *(f"start {number}" for number in (1, len(last))))
    for name in Held._fields:
        table.add_row(name, *(f"{getattr(sample, name):.5g}" for sample in (last[0], last[-1])))
    console.print(table)
    verdict = "flat, nothing left behind" if flat and clean else "GROWS, or something is left"
    seconds = time.monotonic() - began
    console.print(f"{args.steps} steps, {args.restarts} restarts in {seconds:.0f} s: {verdict}")
    return 0 if flat and clean else 1


if __name__ == "__main__":
    sys.exit(main())
