"""Counts of two ways of answering, over rollouts written by hand.

Mutations, each seen red: the two modes exchanged; the mark looked for in the box too.
"""

import json
from pathlib import Path

import pytest

from measurements import answer_modes
from measurements.answer_modes import Counts, modes


def write(folder: Path, step: int, *completions: tuple[str, bool]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"completion": t, "verdict": "correct" if r else "wrong"} for t, r in completions]
    (folder / f"step_{step:06d}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    short, long = "3+1 \\boxed{4/1}", "0+1=1/2 \\boxed{1}"
    for seed, right in ((0, True), (1, False)):
        folder = tmp_path / f"Dr-GRPO-{seed}" / "rollouts"
        write(folder, 1, (short, True), (long, right), (long, False), (short, right))
        write(folder, 20, (short, True), (short, True), (short, True), (long, right))
    (tmp_path / "Dr-GRPO-0.log").write_text("")
    return tmp_path


def test_a_mark_within_the_box_is_no_mark(study: Path) -> None:
    read = Counts.read(study / "Dr-GRPO-0" / "rollouts" / "step_000001.jsonl", "/")
    assert read == Counts((2, 2), (2, 1))


def test_a_cell_has_the_share_and_both_accuracies_over_all_seeds(study: Path) -> None:
    """By hand: without the mark 2 of 2 and 1 of 2 at step 1, 3 of 3 twice at step 20; with it 1 of
    2 and 0 of 2, 1 of 1 and 0 of 1. So 5 of 5 and 4 of 5 against 2 of 3 and 0 of 3."""
    row = modes(study, "/", [1, 20]).splitlines()[2]
    assert row.startswith("| Dr-GRPO | 50: 75 / 25 | 75: 100 / 50 | +56.7 ± ")


def test_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        answer_modes.main([str(tmp_path), "--mark", "/", "--steps", "1"])
    assert "has no run" in capsys.readouterr().err
