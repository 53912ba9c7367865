"""Published verdicts beside the official rule: rows in the authors' schema, every kind of file.

Mutations tried, each seen red: rows without a verdict counted; the rule of ours for theirs.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from measurements.published_verdicts import Agreement, compared, main

ROW = {
    "id": "test_1",
    "question": "What is shown? <image 1>",
    "options": "['a cat', 'a dog', 'a tree']",
    "answer": "B",
    "subject": "Art",
}


def row(number: int, response: object, **verdict: bool) -> dict[str, object]:
    return {**ROW, "id": f"test_{number}", "response": response, **verdict}


def test_agreement_counts_verdicts_and_what_has_none(tmp_path: Path) -> None:
    lines = [
        row(1, "Answer: B", if_right=True),
        row(2, "Answer: A", if_right=False),
        row(3, "Answer: B", if_right=False),
        row(4, "Answer: B"),
        row(5, None, if_right=False),
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    found = compared("mmmu_pro", [file])
    assert found[:5] == Agreement(3, 1, 2, 2, 2, Counter())[:5]
    assert found.differing.total() == 1


def test_object_of_rows_and_several_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        rows = {str(number): row(number, "Answer: B", true_false=True)}
        (tmp_path / f"{number}.json").write_text(json.dumps(rows))
    main(["mmmu_pro", str(tmp_path / "1.json"), str(tmp_path / "2.json")])
    said = " ".join(capsys.readouterr().out.split())
    assert said == (
        "2 responses (0 left out): right by their file 2, right here 2, the same verdict 2"
    )
