"""An evaluation and a verification that are killed at any point of their writing end, by the same
command, with the files of an undisturbed one.

`measurements.kill_reports` tries every point, also those of a study; here are one of each kind.

Mutations tried, each seen red: report.md, samples.jsonl, a plot or the verdicts written in place ->
written whole; half of a line kept -> half of responses.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from measurements.kill_reports import command_of
from measurements.kill_while_writing import Point
from tests.run.test_survival import Forks

KILLED = {
    "evaluate": (
        "open half of amcN/responses.jsonl",
        "rename config.yaml",
        "rename amcN/samples.jsonl",
        "open half of overview.png.partial",
        "rename report.md",
        "rename report.json",
    ),
    "verify": ("open half of verdicts.jsonl.partial", "rename verdicts.jsonl"),
}
RARER = {"rename config.yaml", "open half of overview.png.partial", "rename report.md"}
APPENDED = {"evaluate": {"open amcN/responses.jsonl"}, "verify": set[str]()}


class Whole:
    """The points of writing of programs that ran without a break, each once."""

    def __init__(self, forks: Forks, folder: Path) -> None:
        self.forks, self.folder = forks, folder
        self.commands: dict[str, list[str]] = {}
        self._points: dict[str, dict[str, Point]] = {}

    def points(self, program: str) -> dict[str, Point]:
        if program not in self._points:
            argv = self.commands[program] = command_of(program, self.folder / program)
            seen = self.forks("undisturbed", program, argv, self.folder / program / "whole")
            self._points[program] = {point.kind: point for point in (Point(*p) for p in seen)}
        return self._points[program]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    forks = Forks()
    yield Whole(forks, tmp_path_factory.mktemp("reports"))
    forks.close()


@pytest.mark.parametrize("program", KILLED)
def test_every_file_of_a_report_is_written_whole(program: str, whole: Whole) -> None:
    """Only under a partial name, but for responses, which are appended."""
    opened = {kind for kind in whole.points(program) if kind.startswith("open ")}
    in_place = {kind for kind in opened if ".partial" not in kind and "half" not in kind}
    assert len(opened) > len(in_place)
    assert in_place == APPENDED[program]


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        pytest.param(name, kind, marks=[pytest.mark.long] * (kind in RARER))
        for name, kinds in KILLED.items()
        for kind in kinds
    ],
)
@pytest.mark.long
def test_killed_program_ends_as_the_undisturbed_one(
    program: str, kind: str, whole: Whole, tmp_path: Path
) -> None:
    point, argv = whole.points(program)[kind], whole.commands[program]
    folder = whole.folder / program / "whole"
    again = whole.forks("differences_after", program, argv, folder, tmp_path / "killed", point)
    assert again == []
