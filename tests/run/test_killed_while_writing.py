"""A run that is killed at any point of its writing ends, by the same command, as an undisturbed one
does: every number, row, file and link, in the same order.

`measurements.kill_while_writing` tries every point; here are one of each kind.

Mutations tried, each seen red: the rollouts, a plot, the length report or the summary written in
place -> written whole; rows kept by step alone -> twice; no tidying at resume -> rename best;
leftovers not deleted -> rename step.
"""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from measurements.kill_while_writing import Point
from tests.run.test_resume import STATEFUL
from tests.run.test_survival import Forks
from tests.support.parameters import also_long
from tests.support.run_helpers import command

KILLED = (
    also_long("open half of metrics.csv"),  # a row is appended
    "rename checkpoints/step_N",
    also_long("rename checkpoints/best"),
    also_long("rename checkpoints/step_N.partial"),  # in cleaning up
    also_long("rename plots/training.png"),
    also_long("rename summary.json"),
)
STOPPED = ("begin validation", also_long("begin rollout"), also_long("begin reward"))
STEPS = 3


class Whole(NamedTuple):
    forks: Forks
    argv: list[str]
    folder: Path
    points: dict[str, Point]

    def named(self, folder: Path) -> list[str]:
        return [*self.argv, f"--run_dir={folder}"]


@pytest.fixture(scope="module")
def whole(
    policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Whole]:
    """Train three steps, and see the last point of each kind."""
    folder = tmp_path_factory.mktemp("kills") / "whole"
    keys = {"checkpoint.every_n_steps": 1, "checkpoint.keep_last": 1, "data.val_problems": 2}
    keys |= {"validation.every_n_steps": 1, "steps": STEPS}
    argv = command(policy_folder, data_folder, folder, *STATEFUL, **keys)
    forks = Forks()
    points = [Point(*point) for point in forks("run_recorded", argv, folder)]
    yield Whole(forks, argv, folder, {point.kind: point for point in points})
    forks.close()


def test_every_file_of_a_run_is_written_whole(whole: Whole) -> None:
    """Only under a partial name, or in a folder of one, but for the rows that are appended."""
    written = {kind for kind in whole.points if kind.startswith(("open ", "symlink "))}
    assert {"open metrics.csv", "open summary.json.partial"} <= written
    assert {kind for kind in written if ".partial" not in kind and "half" not in kind} == {
        "open metrics.csv"
    }
    deleted = {kind for kind in whole.points if kind.startswith(("remove ", "rmdir "))} - {
        "rmdir ."  # the lock tries: only an empty folder would go
    }
    assert deleted
    assert all(".partial" in kind for kind in deleted)


@pytest.mark.parametrize("kind", KILLED)
def test_killed_run_ends_as_the_undisturbed_one(kind: str, whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    whole.forks("stop_at", whole.named(folder), folder, whole.points[kind], signal.SIGKILL)
    assert whole.forks("compare_all", folder, whole.folder, STEPS) == []
    assert not [*folder.rglob("*.partial")]


@pytest.mark.parametrize("kind", STOPPED)
@pytest.mark.long
def test_run_that_sigterm_stops_ends_as_the_undisturbed_one(
    kind: str, whole: Whole, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    whole.forks("stop_at", whole.named(folder), folder, whole.points[kind], signal.SIGTERM)
    assert whole.forks("compare_all", folder, whole.folder, STEPS) == []


@pytest.mark.long
def test_validation_that_is_killed_after_sigterm_stands_once_in_the_rows(
    whole: Whole, tmp_path: Path
) -> None:
    """The checkpoint that the signal has caused is older than the row of its own step."""
    folder = tmp_path / "run"
    point = whole.points["begin validation"]
    whole.forks("stop_once", whole.named(folder), folder, point, signal.SIGTERM)
    again = Point("os.rename", f"checkpoints/step_{STEPS}/trainer.ckpt")
    whole.forks("stop_at", whole.named(folder), folder, again, signal.SIGKILL)
    assert whole.forks("compare_all", folder, whole.folder, STEPS) == []
