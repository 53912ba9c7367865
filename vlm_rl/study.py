"""Compare several runs of one configuration over seeds:

    python -m vlm_rl.study --config configs/studies/length_dynamics.yaml

Every combination of condition, variant and seed is a run of `vlm_rl.fit`, `parallel` of them side
by side. The same command resumes the study: a finished run is not repeated. At the end it writes a
table (mean and 95 % interval over seeds) and plots into the study's folder.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from vlm_rl.config import one_line_errors, parse
from vlm_rl.disk.files import PARTIAL, write_text
from vlm_rl.errors import nearest
from vlm_rl.processes.children import ChildPool
from vlm_rl.recipes import finding as recipes
from vlm_rl.run import folder as run_folder
from vlm_rl.run.endings import Ending, one_line_endings
from vlm_rl.run.study_report import read_outcome, write_report
from vlm_rl.show.help.parser import new_parser
from vlm_rl.show.plain import one_line
from vlm_rl.show.screen import Screen, bars, say, warn

Settings = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """One run of a study."""

    condition: str
    variant: str
    seed: int
    folder: Path
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.condition} {self.variant} seed {self.seed}"

    @property
    def finished(self) -> bool:
        return run_folder.is_finished(self.folder)


def build_parser() -> ArgumentParser:
    parser = new_parser("study", __doc__)
    parser.add_argument("--config", action="config", help="a recipe or YAML file, or several")
    parser.add_argument("--output", type=str, required=True, help="the folder of the study")
    parser.add_argument(
        "--prepare",
        type=dict[str, str],
        default={},
        help="path -> arguments of python -m that make it, run if the path is missing",
    )
    parser.add_argument("--base", type=list[str], required=True, help="configs of vlm_rl.fit")
    parser.add_argument(
        "--shared", type=dict[str, Any], default={}, help="what all runs change in the base"
    )
    parser.add_argument("--conditions", type=Settings, required=True, help="name -> changes")
    parser.add_argument("--variants", type=Settings, required=True, help="name -> changes")
    parser.add_argument(
        "--overlays",
        type=dict[str, list[str]],
        default={},
        help="variant -> configs of vlm_rl.fit that its changes come after",
    )
    parser.add_argument("--seeds", type=list[int], required=True)
    parser.add_argument("--only_conditions", type=list[str] | None, default=None)
    parser.add_argument("--only_variants", type=list[str] | None, default=None)
    parser.add_argument("--parallel", type=PositiveInt, default=2, help="runs side by side")
    return parser


def study(argv: Sequence[str] | None = None) -> None:
    """Do all runs that are not finished, then write the report.

    Raises SystemExit: with one line for a wrong configuration, with status 1 if runs failed; the
    others are reported.
    """
    with one_line_endings("vlm_rl.study") as ending:
        _study(argv, ending)


def _study(argv: Sequence[str] | None, ending: Ending) -> None:
    with one_line_errors("vlm_rl.study"):
        config = parse(build_parser(), argv)
        folder = Path(config.output)
        conditions = _chosen(config.conditions, config.only_conditions, "only_conditions")
        variants = _chosen(config.variants, config.only_variants, "only_variants")
        if not config.seeds or len(set(config.seeds)) < len(config.seeds):
            raise ValueError(f"seeds must be different numbers, at least one, got {config.seeds}")
        bases = _bases(config.base, config.overlays, config.variants)
        runs = _runs(folder, bases, config.shared, conditions, variants, config.seeds)
    ending.left = f"what is done is kept in {folder}, the same command goes on"
    ending.place = str(folder)
    for path, arguments in config.prepare.items():
        _prepare(Path(path), arguments)
    failed = _run_all([run for run in runs if not run.finished], config.parallel)
    with one_line_errors("vlm_rl.study"):
        outcomes = [
            read_outcome(run.folder, run.condition, run.variant, run.seed)
            for run in runs
            if run.finished
        ]
    if outcomes:
        write_report(outcomes, folder)
    for line in failed:
        warn(f"vlm_rl.study: {line}")
    if failed:
        raise SystemExit(1)


def _prepare(path: Path, arguments: str) -> None:
    """Make what runs need if it is missing, or if a start before this one was ended in the middle.

    Raises SystemExit with status 1 if it cannot be made.
    """
    begun = path.with_name(path.name + PARTIAL)
    if path.exists() and not begun.exists():
        return
    say(f"python -m {arguments}")
    write_text(begun, "")
    with ChildPool(1) as pool:
        status = pool.submit(pool.run, [sys.executable, "-m", *shlex.split(arguments)]).result()
    if status:
        warn(f"vlm_rl.study: prepare.{path}: python -m {arguments} ended with status {status}")
        raise SystemExit(1)
    begun.unlink()


def _chosen(settings: Settings, only: Sequence[str] | None, key: str) -> Settings:
    for name in settings:
        if Path(name).name != name or one_line(name) != name:
            raise ValueError(f"{key.removeprefix('only_')}: {name!r} cannot name a file; rename it")
    for name in only or ():
        if name not in settings:
            raise ValueError(f"{key} names {name!r}, which is not one{nearest(name, settings)}")
    return {name: settings[name] for name in (settings if only is None else only)}


def _bases(
    base: Sequence[str], overlays: Mapping[str, Sequence[str]], variants: Settings
) -> dict[str, tuple[list[str], list[str]]]:
    """Return the configs that come first and the overlays of each variant."""
    for name in overlays:
        if name not in variants:
            raise ValueError(f"overlays names {name!r}, no variant{nearest(name, variants)}")
    first = [*map(recipes.find, base)]
    return {name: (first, [*map(recipes.find, overlays.get(name, ()))]) for name in variants}


def _runs(
    folder: Path,
    bases: Mapping[str, tuple[list[str], list[str]]],
    shared: Mapping[str, Any],
    conditions: Settings,
    variants: Settings,
    seeds: Sequence[int],
) -> list[Run]:
    """List the runs, seeds outermost, so that a study that is cut short has whole seeds."""
    configs = folder / "configs"
    of_all = _write(configs / "shared.yaml", shared)
    of_condition = {
        n: _write(configs / "conditions" / f"{n}.yaml", v) for n, v in conditions.items()
    }
    of_variant = {n: _write(configs / "variants" / f"{n}.yaml", v) for n, v in variants.items()}
    runs = []
    for seed in seeds:
        for condition in conditions:
            for variant in variants:
                target = folder / condition / f"{variant}-{seed}"
                first, overlays = bases[variant]
                merged = [*first, of_all, of_condition[condition], *overlays, of_variant[variant]]
                command = [sys.executable, "-m", "vlm_rl.fit"]
                command += [part for path in merged for part in ("--config", str(path))]
                command += ["--seed", str(seed), "--run_dir", str(target)]
                runs.append(Run(condition, variant, seed, target, tuple(command)))
    return runs


def _write(target: Path, values: Mapping[str, Any]) -> Path:
    write_text(target, yaml.safe_dump(dict(values), sort_keys=False))
    return target


def _run_all(runs: Sequence[Run], parallel: int) -> list[str]:
    """Return a line for each run that failed."""
    failed, screen = [], Screen()
    with bars(screen) as bar, ChildPool(parallel) as pool:
        task = bar.add_task("runs", total=len(runs))
        for run, status in zip(runs, pool.map(partial(_start, pool), runs), strict=True):
            bar.advance(task)
            if status or not run.finished:  # a signal to one run saves it and has status 0
                failed.append(f"{run.name} ended with {status}: {_last_line(_log(run))}")
            else:
                screen.put(f"{run.name}: {run.folder}")
    return failed


def _start(pool: ChildPool, run: Run) -> int:
    """Run it to its end; return its exit status."""
    log = _log(run)
    log.parent.mkdir(parents=True, exist_ok=True)
    # several processes share the cores: with more than one thread each, all of them crawl
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    with log.open("a") as file:
        return pool.run(run.command, stdout=file, stderr=subprocess.STDOUT, env=environment)


def _log(run: Run) -> Path:
    return run.folder.with_name(f"{run.folder.name}.log")  # a variant may have a dot in its name


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1] if lines else 'nothing was printed'} ({log})"


def main(argv: Sequence[str] | None = None) -> None:
    """Run a study from the command line."""
    study(argv)


if __name__ == "__main__":
    main()
