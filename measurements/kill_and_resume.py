"""Kill a run at random moments, resume it, and compare it with an undisturbed run.

    python -m measurements.kill_and_resume --output runs/kill_and_resume
    python -m measurements.kill_and_resume --output runs/kill_and_resume_2 --processes 2 \\
        --kills 5 --steps 12 --strategy fsdp2

Trains the quickstart's policy for 40 steps with every kind of state: a running average in the
objective, an adaptive coefficient, a reference, groups that are dropped and replaced, a warm-up.
Then trains again with 20 SIGKILLs, each at a moment drawn from `--seed` and followed by the same
command. Prints a table of the kills and whether the weights, the optimizer, the rest of the state,
metrics.csv (without seconds) and every rollout are equal bit for bit. The exit status is 1 if they
are not. Every start is a fork of one process that has imported everything, because importing takes
longer than such a run. Arguments after `--` go to `vlm_rl.fit`.

With `--processes` the ranks meet over gloo, and each kill hits one of them, or all, at random. The
others have to end by themselves. One that does not within a minute is killed too, and the table
says so.
"""

import argparse
import json
import os
import random
import re
import signal
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import vlm_rl  # noqa: F401  (makes torchvision importable for what follows)

# isort: split
import torch
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table
from torch import Tensor

from data_prep import synthetic
from vlm_rl.fit import fit
from vlm_rl.run import folder as run_folder
from vlm_rl.run.heartbeat import Beat, read_beats
from vlm_rl.run.metrics_csv import read_metrics

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
    "--dynamic_sampling=vlm_rl.training.MixedVerdicts",
    "--data.prompts_per_step=4",
    "--data.val_problems=16",
    "--group_size=4",
    "--sampling.max_completion_tokens=16",
    "--optimizer.warmup_updates=8",
    "--checkpoint.every_n_steps=3",
    "--validation.every_n_steps=6",
    "--logging.wandb=off",
)

END_S = 60.0
"""How long the ranks that were not killed may take to notice and end."""


class Kill(NamedTuple):
    """Where a run was when it was killed, how the other ranks ended, and what it left."""

    beat: Beat
    victims: list[int]
    others: list[str]
    newest: int
    half_written: list[str]


class Moment(NamedTuple):
    """When and what to kill: steps from the beginning of the run, and a rank, or None for all."""

    steps: float
    rank: int | None


def start(
    argv: Sequence[str],
    log: Path,
    processes: int = 1,
    before: Callable[[], object] = lambda: None,
    program: Callable[[Sequence[str]], object] = fit,
) -> list[int]:
    """Start a training, or another `program`, in processes of its own that write to `log`, each
    calling `before` first.

    Returns their ids by rank.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = partial(program, argv)
    return [_start(run, log, before, rank, processes, port) for rank in range(processes)]


def _start(
    run: Callable[[], object],
    log: Path,
    before: Callable[[], object],
    rank: int,
    processes: int,
    port: int,
) -> int:
    process = os.fork()
    if process:
        return process
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if processes > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        rank_zero_only.rank = rank  # Lightning reads LOCAL_RANK when it is imported
    status = 1
    try:
        before()
        run()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:  # a forked child must not return into its parent's code
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
        finally:  # what ran may have closed it
            os._exit(status)


def ended(processes: Sequence[int], *, wait: bool) -> bool:
    """Return whether a training has ended by itself. Raises RuntimeError if it failed."""
    for process in processes:
        reaped, status = os.waitpid(process, 0 if wait else os.WNOHANG)
        if reaped and status:
            raise RuntimeError(f"a training ended with status {os.waitstatus_to_exitcode(status)}")
        if reaped and not wait:  # the others are about to end
            return ended([other for other in processes if other != process], wait=True)
    return wait


def kill_at(processes: Sequence[int], run_dir: Path, moment: Moment, whole_s: float) -> Kill | None:
    """Send SIGKILL at a moment of a run whose steps take `whole_s`.

    Returns None if the run ended before that moment.
    """
    victims = range(len(processes)) if moment.rank is None else [moment.rank]
    first, step = processes[victims[0]], int(moment.steps) + 1
    while not any(b.pid == first and b.step >= step for b in read_beats(run_dir / "heartbeat")):
        if ended(processes, wait=False):
            return None
        time.sleep(0.005)
    time.sleep(moment.steps % 1 * whole_s)
    if ended(processes, wait=False):
        return None
    for rank in victims:
        os.kill(processes[rank], signal.SIGKILL)
    os.waitpid(first, 0)
    (beat,) = (beat for beat in read_beats(run_dir / "heartbeat") if beat.pid == first)
    others = [_end(process) for process in processes if process != first]
    newest = run_folder.newest_checkpoint(run_dir)
    left = [str(path.relative_to(run_dir)) for path in run_dir.rglob("*.partial")]
    return Kill(beat, [*victims], others, newest.step if newest else 0, left)


def _end(process: int) -> str:
    """Wait for a process that was not killed. Returns how it ended."""
    began = time.monotonic()
    while time.monotonic() < began + END_S:
        reaped, status = os.waitpid(process, os.WNOHANG)
        if reaped:
            code = os.waitstatus_to_exitcode(status)
            return "killed" if code < 0 else f"{code} in {time.monotonic() - began:.1f} s"
        time.sleep(0.02)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return "had to be killed"


def kill_and_resume(
    argv: Sequence[str], run_dir: Path, moments: Sequence[Moment], processes: int = 1
) -> list[Kill]:
    """Train with a kill at each of `moments`, resuming after each."""
    kills = []
    whole_s = _step_seconds(run_dir.with_name("undisturbed"))
    log = run_dir.with_suffix(".log")
    for moment in sorted(moments, key=lambda moment: moment.steps):
        kill = kill_at(start(argv, log, processes), run_dir, moment, whole_s)
        if kill is None:
            return kills
        kills.append(kill)
    ended(start(argv, log, processes), wait=True)
    return kills


def _step_seconds(run_dir: Path) -> float:
    rows = read_metrics(run_dir / "metrics.csv")
    seconds = [sum(v for k, v in row.items() if re.fullmatch(r"time/\w+_s", k)) for row in rows]
    return sum(seconds) / max(row["step"] for row in rows)


def differences(run_dir: Path, whole: Path, step: int) -> Iterator[str]:
    """Yield what is not equal bit for bit in two runs of `step` steps."""
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
    path = run_folder.step_folder(run_dir, step) / "trainer.ckpt"
    saved = torch.load(path, map_location="cpu", weights_only=True)
    names = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "ProblemData")
    own = {key: value for key, value in saved["vlm_rl"].items() if key != "stage_seconds"}
    return {name: saved[name] for name in names} | own


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):  # FSDP2 gives the optimizer a list where it had a tuple
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(_same, a, b))
    return a == b


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--strategy", choices=("ddp", "fsdp2"), default="ddp", help="of several")
    parser.add_argument("fit", nargs="*", help="arguments of vlm_rl.fit, after --")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True)
    command = [*settings(write_data(args.output), args.steps), *_of_ranks(args), *args.fit]
    whole, killed = args.output / "undisturbed", args.output / "killed"
    began = time.monotonic()
    argv = [*command, f"--run_dir={whole}"]
    ended(start(argv, whole.with_suffix(".log"), args.processes), wait=True)
    moments = _drawn(args)
    kills = kill_and_resume([*command, f"--run_dir={killed}"], killed, moments, args.processes)
    different = list(differences(killed, whole, args.steps))
    report(kills, different, args, time.monotonic() - began)
    return 1 if different or len(kills) < args.kills else 0


def write_data(folder: Path) -> Path:
    """Write the problems of such a run; return their folder."""
    data = folder / "data"
    for split, count in (("train", 48), ("val", 16)):
        synthetic.write(data, split, count, seed=0, difficulty=synthetic.DEFAULT_DIFFICULTY)
    return data


def settings(data: Path, steps: int) -> list[str]:
    """Return the command line of such a run, without its folder."""
    sources = {name: json.dumps([{"path": f"{data}/{name}.jsonl"}]) for name in ("train", "val")}
    return [*SETTINGS, *(f"--data.{n}={v}" for n, v in sources.items()), f"--steps={steps}"]


def _of_ranks(args: argparse.Namespace) -> list[str]:
    if args.processes == 1:
        return []
    return [f"--trainer.devices={args.processes}", f"--trainer.strategy={args.strategy}"]


def _drawn(args: argparse.Namespace) -> list[Moment]:
    draw = random.Random(args.seed)
    # not in the last step: a run that has ended cannot be killed
    steps = [draw.uniform(0, args.steps - 1) for _ in range(args.kills)]
    ranks = [0] if args.processes == 1 else [*range(args.processes), None]
    return [Moment(moment, draw.choice(ranks)) for moment in steps]


def report(kills: Sequence[Kill], different: list[str], args: Any, seconds: float) -> None:
    console = Console(width=110)
    columns = ("kill", "rank", "in step", "phase", "others", "newest checkpoint", "half-written")
    table = Table(*columns)
    for number, kill in enumerate(kills, 1):
        beat, left = kill.beat, ", ".join(kill.half_written) or "-"
        ranks, others = ", ".join(map(str, kill.victims)), ", ".join(kill.others) or "-"
        newest = f"step {kill.newest}"
        table.add_row(str(number), ranks, str(beat.step), beat.phase, others, newest, left)
    console.print(table)
    console.print(dict(Counter(kill.beat.phase for kill in kills)))
    verdict = f"DIFFERENT: {', '.join(different)}" if different else "equal bit for bit"
    console.print(
        f"{len(kills)} of {args.kills} kills over {args.steps} steps in {seconds:.0f} s: {verdict}",
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
