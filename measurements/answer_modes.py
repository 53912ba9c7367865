"""Two ways of answering, told apart by a mark in the text: how often each is chosen, and right.

    python -m measurements.answer_modes runs/twins/twins --mark / --steps 1 10 20 40 80

A cell has the share of the completions without the mark, in how many of them the answer is right,
and in how many of those with it; % over all seeds of a variant. The last column has the difference
of the two at the chosen steps together, points, with its 95 % interval over seeds.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlm_rl.run.study_report import Interval
from vlm_rl.show.markdown import Markdown, table
from vlm_rl.show.screen import say_all


@dataclass(frozen=True)
class Counts:
    """Completions and right ones, first those without the mark, then those with it."""

    number: tuple[int, int]
    right: tuple[int, int]

    @classmethod
    def read(cls, rollouts: Path, mark: str) -> "Counts":
        number, right = [0, 0], [0, 0]
        for line in rollouts.read_text().splitlines():
            row = json.loads(line)
            mode = mark in row["completion"].partition("\\boxed")[0]
            number[mode] += 1
            right[mode] += row["verdict"] == "correct"
        return cls((number[0], number[1]), (right[0], right[1]))

    @classmethod
    def of(cls, parts: Sequence["Counts"]) -> "Counts":
        sums = [
            [sum(getattr(part, name)[mode] for part in parts) for mode in (0, 1)]
            for name in ("number", "right")
        ]
        return cls(*(map(tuple, sums)))  # type: ignore[arg-type]

    @property
    def accuracies(self) -> list[float]:
        """In %; of a mode that nobody chose 0."""
        pairs = zip(self.right, self.number, strict=True)
        return [100 * right / max(number, 1) for right, number in pairs]

    def text(self) -> str:
        share = 100 * self.number[0] / sum(self.number)
        return f"{share:.0f}: " + " / ".join(f"{value:.0f}" for value in self.accuracies)


def modes(study: Path, mark: str, steps: Sequence[int]) -> Markdown:
    """Return a row for each variant. Raises ValueError if a folder has no run."""
    runs: dict[str, list[Path]] = {}
    for folder in sorted(path for path in study.glob("*-*") if path.is_dir()):
        runs.setdefault(folder.name.rpartition("-")[0], []).append(folder / "rollouts")
    if not runs:
        raise ValueError(f"{study} has no run; give the folder of a condition, as runs/twins/twins")
    rows = []
    for variant, folders in runs.items():
        cells = [[Counts.read(f / f"step_{s:06d}.jsonl", mark) for f in folders] for s in steps]
        seeds = [Counts.of(own).accuracies for own in zip(*cells, strict=True)]
        difference = Interval.of(without - with_mark for without, with_mark in seeds)
        texts = [Counts.of(cell).text() for cell in cells]
        rows.append((variant, *texts, difference.text("{:+.1f}")))
    return table(("", *(f"step {step}" for step in steps), "difference"), rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of one condition of a study")
    parser.add_argument("--mark", required=True, help="text that only one of the two ways has")
    parser.add_argument("--steps", nargs="+", type=int, required=True)
    arguments = parser.parse_args(argv)
    try:
        say_all(modes(arguments.study, arguments.mark, arguments.steps))
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
