"""The accuracy by our reading and the official one are two figures with two names.

Broken on purpose, one at a time, each seen red: both under one name; a reading counted as official;
    no line on the screen
"""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation.test_report import CATEGORY, evaluation, question
from vlm_rl.evaluation.report import sample_row, write_report
from vlm_rl.evaluation.results import metrics
from vlm_rl.evaluation.screen import print_overview
from vlm_rl.evaluation.summary import summarise


def test_accuracy_by_reading_has_a_name_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """As with responses of which only some have a stored extraction."""
    judged = question("a", "rw", official="rw", meta=CATEGORY)
    read = [
        replace(one, official=replace(one.official, by_reading=True))
        for one in question("b", "rrw", official="rrr", meta=CATEGORY)
    ]
    result = summarise(evaluation([*judged, *read]))
    assert (result.official.num_responses, result.reading.num_responses) == (2, 3)
    assert (result.official_accuracy.mean, result.reading_accuracy.mean) == (0.5, 1)
    assert (result.official.no_ruling, result.reading.right_by_official_only) == (3, 1)
    values = metrics(result)
    assert values["eval/mathvision/official_accuracy"] == 0.5
    assert values["eval/mathvision/reading_accuracy"] == 1
    write_report([evaluation([*judged, *read])], tmp_path)
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert sum(line.startswith("| official accuracy | 50.0 ") for line in lines) == 1
    assert sum(line.startswith("| accuracy by reading | 100.0 ") for line in lines) == 1
    print_overview([result])
    assert "mathvision: 100.0 by reading" in capsys.readouterr().out
    assert sample_row(read[0])["by_reading"] is True
    alone = summarise(evaluation(read))
    assert alone.official is None
    assert "eval/mathvision/official_accuracy" not in metrics(alone)
