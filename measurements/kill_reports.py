"""Kill an evaluation, a study and a verification at every point of their writing.

    python -m measurements.kill_reports --output runs/kill_reports

As `measurements.kill_while_writing` does with a run: SIGKILL before every file that is opened,
renamed or deleted, and when half of an opened one is on the disk; then the same command again. The
evaluation asks the shipped tiny policy a dozen questions in batches. The study has two finished
runs, so that what is killed is its own writing. Prints a table of the points after which a file
differs from that of an undisturbed command, or a half-written one is left. The exit status is 1 if
there is one.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from measurements.kill_and_resume import ended, start
from measurements.kill_while_writing import (
    Point,
    Program,
    file_differences,
    run_recorded,
    stop_at,
)

# isort: split
from rich.console import Console
from rich.table import Table

from data_prep import synthetic
from vlm_rl.evaluate import evaluate
from vlm_rl.study import study
from vlm_rl.verify import main as verify

PROGRAMS: Mapping[str, Program] = {"evaluate": evaluate, "study": study, "verify": verify}
POLICY = Path(__file__).parents[1] / "data_prep/warm_start"
_TINY = {
    "steps": 2,
    "group_size": 4,
    "data": {"prompts_per_step": 2, "val_problems": 2},
    "sampling": {"max_completion_tokens": 12},
    "validation": {"every_n_steps": 1, "greedy": False},
    "logging": {"wandb": "off"},
}


def command_of(program: str, folder: Path) -> list[str]:
    """Write the input of a program into `folder`; return its command line without the output."""
    return {"evaluate": _evaluation, "study": _study, "verify": _verification}[program](folder)


def _evaluation(folder: Path) -> list[str]:
    rows = [{"id": n, "question": f"What is {n} + 1?", "answer": n + 1} for n in range(12)]
    table = _rows(folder / "amc23.jsonl", rows)
    return [
        *(f"--model={POLICY}", "--benchmark", "amc23", f"--data.amc23={table}"),
        *("--batch_problems=4", "--sampling.max_completion_tokens=12", "--logging.wandb=off"),
        *("--samples_per_problem=2", "--sampling.temperature=1.0", "--prompt.style=plain"),
    ]


def _study(folder: Path) -> list[str]:
    data = folder / "data"
    for split in ("train", "val"):
        synthetic.write(data, split, 16, seed=0, difficulty=synthetic.DEFAULT_DIFFICULTY)
    sources = {split: [{"path": f"{data}/{split}.jsonl"}] for split in ("train", "val")}
    shared = _TINY | {"data": _TINY["data"] | sources}  # type: ignore[operator]
    variants = {n: {"objective": f"vlm_rl.objectives.{n}"} for n in ("GSPO", "LUSPO")}
    return [
        *("--base=[configs/quickstart.yaml]", f"--shared={json.dumps(shared)}", "--seeds=[0]"),
        *('--conditions={"all": {}}', f"--variants={json.dumps(variants)}"),
    ]


def _verification(folder: Path) -> list[str]:
    rows = [{"gold": str(n), "prediction": f"{n}.0"} for n in range(20)]
    return [str(_rows(folder / "answers.jsonl", rows))]


def _rows(target: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return target


def output_of(program: str, folder: Path) -> str:
    """Return the option that has a program write into `folder`."""
    return f"--output={folder / 'verdicts.jsonl' if program == 'verify' else folder}"


def undisturbed(program: str, argv: Sequence[str], folder: Path) -> list[Point]:
    """Run a program without a break and return the points of its writing."""
    folder.mkdir(parents=True)
    argv = [*argv, output_of(program, folder)]
    if program == "study":  # its runs are those of a study before
        ended(start(argv, folder.with_suffix(".log"), program=study), wait=True)
        for path in folder.iterdir():
            if path.is_file():
                path.unlink()
        shutil.rmtree(folder / "configs")
        shutil.copytree(folder, _runs_of(folder), symlinks=True)
    return run_recorded(argv, folder, PROGRAMS[program])


def _runs_of(whole: Path) -> Path:
    return whole.with_name(f"{whole.name}_runs")


def differences_after(
    program: str, argv: Sequence[str], whole: Path, folder: Path, point: Point
) -> Iterator[str]:
    """Kill a program at `point`, run it again, and yield what is not as in `whole`."""
    if _runs_of(whole).exists():
        shutil.copytree(_runs_of(whole), folder, symlinks=True)
    else:
        folder.mkdir(parents=True)
    stop_at([*argv, output_of(program, folder)], folder, point, program=PROGRAMS[program])
    yield from file_differences(folder, whole)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=[*PROGRAMS])
    args = parser.parse_args(argv)
    table, count, bad = Table("program", "point", "time", "different"), 0, 0
    for program in args.programs:
        folder = args.output / program
        command = command_of(program, folder)
        points = undisturbed(program, command, folder / "whole")
        count += len(points)
        for index, point in enumerate(points):
            killed = folder / f"killed_{index}"
            try:
                different = [*differences_after(program, command, folder / "whole", killed, point)]
            except RuntimeError as error:
                different = [str(error)]
            if different:
                bad += 1
                table.add_row(program, point.kind, str(point.number), ", ".join(different))
            else:
                shutil.rmtree(killed)
    console = Console(width=140)
    if bad:
        console.print(table)
    console.print(f"{count} points, {bad} with another end", soft_wrap=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
