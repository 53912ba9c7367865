"""A signal to one of two real processes, or to both as Ctrl-C sends it, in each phase of a run: one
line, the status of the table in docs/runs.md on both, no process left, and the same command goes on
to the weights, metrics and rollouts of a run that nobody has disturbed.

In the start both are told: one that is told alone ends alone, see docs/runs.md. In the "meeting"
rank 1 already waits for rank 0, in foreign code.

Broken on purpose, each seen red: every rank prints the line; the own rank named in place of the one
that was told; signals at their default action while a rank waits for the others.
"""

import itertools
import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.run.test_endings import SIGNALS
from tests.run.test_survival import Run
from tests.run.test_survival_processes import Runs
from tests.support.patience import runs

STEPS = 3
KEYS = {"steps": STEPS, "checkpoint.every_n_steps": 2}
PHASES = ("start", "meeting", "rollout", "reward", "update", "checkpoint")
WAYS = (
    (signal.SIGTERM, "rank 0"),
    (signal.SIGTERM, "rank 1"),
    (signal.SIGINT, "rank 0"),
    (signal.SIGINT, "rank 1"),
    (signal.SIGINT, "group"),
    (signal.SIGTERM, "group"),
)
GROUP_ONLY = ("start", "meeting")
SHORT = {
    ("rollout", *WAYS[4]),
    ("checkpoint", *WAYS[0]),
}
CASES = [
    (phase, *way)
    for phase, way in itertools.product(PHASES, WAYS)
    if phase not in GROUP_ONLY or way[1] == "group"
]


@pytest.fixture(scope="module")
def two(
    policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runs]:
    started = Runs(policy_folder, data_folder, tmp_path_factory.mktemp("two"))
    yield started
    started.forks.close()


@pytest.fixture(scope="module")
def whole(two: Runs) -> Run:
    run = two.start("undisturbed", **KEYS)
    assert run.end() == 0, run.log.read_text()
    return run


def group_of(pid: int) -> int | None:
    """Return the process group of what still runs."""
    with suppress(ProcessLookupError):
        return os.getpgid(pid) if runs(pid) else None
    return None


@pytest.mark.parametrize(
    ("phase", "number", "to"),
    [pytest.param(*case, marks=[] if case in SHORT else pytest.mark.long) for case in CASES],
)
def test_signal_in_a_phase(
    phase: str, number: signal.Signals, to: str, two: Runs, whole: Run
) -> None:
    name = f"{phase} {number.name} {to}".replace(" ", "_")
    run = two.start(name, told=(phase, number, to), **KEYS)
    run.end()
    text = run.log.read_text()
    assert run.statuses == [SIGNALS[number]] * 2, text
    if phase in GROUP_ONLY:
        assert f"{number.name} in the start: stopped before training, nothing was ch" in run.line
        written = {path.name for path in run.run_dir.glob("*")}  # by rank 1, if it waits already
        assert written == {"heartbeat"} if phase == "meeting" else written <= {"heartbeat"}
    else:
        told = "rank [01]" if to == "group" else to
        assert re.search(rf"{number.name} in the .+ of {told}: stopped after step", run.line)
        assert not [*run.run_dir.rglob("*.partial")]
        assert not (run.run_dir / "lock").exists()
    assert not [pid for pid in psutil.pids() if group_of(pid) in run.pids], "a process is left"
    again = two.start(name, **KEYS)
    assert again.end() == 0, again.log.read_text()
    assert two.forks("compare", run.run_dir, whole.run_dir, STEPS) == []
