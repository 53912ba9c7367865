"""Kills a run at random moments, starts it again, and compares it with one that was left alone.

    python -m benchmarks.kill_and_resume --output runs/kill_and_resume

Trains the quickstart's policy for 40 steps with all that a run has to remember: a running average
in the objective, a coefficient that moves, a reference, groups that are dropped and replaced, a
warm-up. Then the same run again with 20 SIGKILLs, each at a moment drawn from `--seed` and followed
by the same command. Prints a table of the kills and whether the weights, the optimizer, the rest of
the state, metrics.csv (but for seconds) and every rollout are equal bit for bit; the exit status is
1 where they are not. Every start is a fork of one process that has imported everything: importing
takes longer than such a run. Arguments after `--` go to `vlm_rl.fit`.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from data_prep import synthetic
from vlm_rl import runs
from vlm_rl.fit import fit
from vlm_rl.heartbeat import Beat, read_beats
from vlm_rl.report import read_metrics

KL = {"class_path": "vlm_rl.objectives.AdaptiveKL", "init_args": {"kl_coef": 0.1, "target": 1e-3}}
SETTINGS = (
    "--config=configs/quickstart.yaml",
    "--objective=vlm_rl.objectives.FSPO",
    "--objective.init_args.clip_low_log=0.04",
    "--objective.init_args.clip_high_log=0.04",
    "--objective.init_args.dual_clip_log=0.5",
    "--objective.init_args.drift=centre",
    "--objective.init_args.ema_rate=0.1",
    f"--objective.init_args.regularizers={json.dumps([KL])}",
    "--dynamic_sampling=vlm_rl.sampling.MixedVerdicts",
    "--data.prompts_per_step=4",
    "--data.val_problems=16",
    "--group_size=4",
    "--sampling.max_completion_tokens=16",
    "--optimizer.warmup_updates=8",
    "--checkpoint.every_n_steps=3",
    "--validation.every_n_steps=6",
    "--logging.wandb=off",
)


class Kill(NamedTuple):
    """Where a run was when it was killed, and what it left."""

    beat: Beat
    newest: int
    half_written: list[str]


def start(argv: Sequence[str], log: Path) -> int:
    """The process id of a training in a process of its own, whose output goes to `log`."""
    process = os.fork()
    if process:
        return process
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    status = 1
    try:
        fit(argv)
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(status)


def ended(process: int, *, wait: bool) -> bool:
    """Whether a training has ended by itself; raises where it failed."""
    found, status = os.waitpid(process, 0 if wait else os.WNOHANG)
    if found and status:
        raise RuntimeError(f"a training ended with status {os.waitstatus_to_exitcode(status)}")
    return bool(found)


def kill_at(process: int, run_dir: Path, step: int, delay_s: float) -> Kill | None:
    """SIGKILL `delay_s` after the process has begun `step`; None where it was faster."""
    while not any(b.pid == process and b.step >= step for b in read_beats(run_dir / "heartbeat")):
        if ended(process, wait=False):
            return None
        time.sleep(0.005)
    time.sleep(delay_s)
    if ended(process, wait=False):
        return None
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    (beat,) = read_beats(run_dir / "heartbeat")
    complete = runs.checkpoints(run_dir)
    left = [str(path.relative_to(run_dir)) for path in run_dir.rglob("*.partial")]
    return Kill(beat, complete[-1][0] if complete else 0, left)


def kill_and_resume(argv: Sequence[str], run_dir: Path, moments: Sequence[float]) -> list[Kill]:
    """Do the run with a kill at each of `moments`, in steps from its beginning."""
    kills = []
    whole_s = _step_seconds(run_dir.with_name("undisturbed"))
    for moment in sorted(moments):
        process = start(argv, run_dir.with_suffix(".log"))
        kill = kill_at(process, run_dir, int(moment) + 1, moment % 1 * whole_s)
        if kill is None:
            return kills
        kills.append(kill)
    ended(start(argv, run_dir.with_suffix(".log")), wait=True)
    return kills


def _step_seconds(run_dir: Path) -> float:
    rows = read_metrics(run_dir / "metrics.csv")
    seconds = [sum(v for k, v in row.items() if k.startswith("time/")) for row in rows]
    return sum(seconds) / max(row["step"] for row in rows)


def differences(run_dir: Path, whole: Path, step: int) -> Iterator[str]:
    """What is not equal bit for bit in two runs of `step` steps."""
    first, second = (_state(folder, step) for folder in (run_dir, whole))
    yield from (name for name in second if not _same(first.get(name), second[name]))
    tables = [
        [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(path)]
        for path in (run_dir / "metrics.csv", whole / "metrics.csv")
    ]
    if tables[0] != tables[1]:
        yield "metrics.csv"
    files = [
        {path.name: path.read_bytes() for path in (folder / "rollouts").iterdir()}
        for folder in (run_dir, whole)
    ]
    yield from (name for name in files[0] | files[1] if files[0].get(name) != files[1].get(name))


def _state(run_dir: Path, step: int) -> dict[str, Any]:
    path = runs.step_folder(run_dir, step) / "trainer.ckpt"
    saved = torch.load(path, map_location="cpu", weights_only=False)
    names = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "ProblemData")
    own = {key: value for key, value in saved["vlm_rl"].items() if key != "stage_seconds"}
    return {name: saved[name] for name in names} | own


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, type(a)) and len(a) == len(b) and all(map(_same, a, b))
    return a == b


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("fit", nargs="*", help="arguments of vlm_rl.fit, after --")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True)
    data = args.output / "data"
    for split, count in (("train", 48), ("val", 16)):
        synthetic.write(data, split, count, seed=0, difficulty=synthetic.DEFAULT_DIFFICULTY)
    sources = {name: json.dumps([{"path": f"{data}/{name}.jsonl"}]) for name in ("train", "val")}
    settings = [*SETTINGS, *(f"--data.{n}={v}" for n, v in sources.items())]
    settings += [f"--steps={args.steps}", *args.fit]
    whole, killed = args.output / "undisturbed", args.output / "killed"
    began = time.monotonic()
    ended(start([*settings, f"--run_dir={whole}"], whole.with_suffix(".log")), wait=True)
    draw = random.Random(args.seed)
    # not in the last step: a run that has ended can not be killed
    moments = [draw.uniform(0, args.steps - 1) for _ in range(args.kills)]
    kills = kill_and_resume([*settings, f"--run_dir={killed}"], killed, moments)
    found = list(differences(killed, whole, args.steps))
    report(kills, found, args, time.monotonic() - began)
    return 1 if found or len(kills) < args.kills else 0


def report(kills: Sequence[Kill], found: list[str], args: Any, seconds: float) -> None:
    console = Console(width=110)
    table = Table("kill", "in step", "phase", "newest checkpoint", "half-written files")
    for number, kill in enumerate(kills, 1):
        beat, left = kill.beat, ", ".join(kill.half_written) or "-"
        table.add_row(str(number), str(beat.step), beat.phase, f"step {kill.newest}", left)
    console.print(table)
    console.print(dict(Counter(kill.beat.phase for kill in kills)))
    verdict = f"DIFFERENT: {', '.join(found)}" if found else "equal bit for bit"
    console.print(
        f"{len(kills)} of {args.kills} kills over {args.steps} steps in {seconds:.0f} s: {verdict}",
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
