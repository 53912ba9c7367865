"""Hostile strings in a real run and its reports: all is written, and none of it is more than text.

Broken on purpose, each seen red: markup switched on in `Screen`; `visible` returning its argument;
`wandb_table` without `visible_in`; rollouts written by json.dumps.
"""

import json
from pathlib import Path

import pytest
import wandb

from data_prep.audit import audit
from tests.evaluation.test_comparison import folder
from tests.evaluation.test_report import evaluation, question
from tests.show.test_show import text_of
from tests.support.hostile import CONTROL, STRINGS, file_name
from tests.support.run_helpers import command
from vlm_rl.evaluation.comparison import compare, print_comparison, write_comparison
from vlm_rl.evaluation.report import write_report
from vlm_rl.evaluation.screen import print_overview
from vlm_rl.fit import fit
from vlm_rl.run.study_report import Outcome
from vlm_rl.run.study_report import write_report as write_study

TEXTS = [text for name, text in STRINGS.items() if name != "half"]


def rows(path: Path) -> Path:
    """Write a data set of hostile strings in every column that takes text."""
    lines = [
        {
            "uid": f"{number} {text}",
            "problem": f"{text}?",
            "answer": text,
            "answer_type": "text",
            "choices": [text, f"{number}"],
            "source": text,
            "task": "odd",
        }
        for number, text in enumerate(TEXTS)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def assert_clean(shown: str) -> None:
    found = [char for char in CONTROL if char in shown.replace("\r\n", "\n")]
    assert not found, f"{found} in {shown[:200]!r}"


def test_run_with_hostile_rows_in_a_hostile_folder(
    policy_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = file_name(f"{STRINGS['brackets']}{STRINGS['escapes']}")
    rows(tmp_path / "train.jsonl")
    rows(tmp_path / "val.jsonl")
    run_dir = tmp_path / name
    keys = {"steps": 1, "validation.every_n_steps": 1, "data.val_problems": 4}
    keys |= {"data.on_bad_row": "skip"}  # a picture in HTML is one that is not loaded
    keys |= {"prompt.max_prompt_tokens": 500, "logging.wandb": "offline"}
    fit(command(policy_folder, tmp_path, run_dir, **keys))
    wandb.finish()  # another run in this process would go on in it
    shown = capfd.readouterr()
    assert_clean(shown.out)
    assert_clean(shown.err.replace("\r", ""))  # the bar of loading weights is transformers' own
    assert "[bold red]" in shown.out, "the folder is named as it is"
    assert json.loads((run_dir / "summary.json").read_text())["steps"] == 1
    [file] = (run_dir / "rollouts").iterdir()
    uids = {json.loads(line)["uid"] for line in file.read_text("utf-8").split("\n") if line}
    assert uids <= {f"{number} {text}" for number, text in enumerate(TEXTS)}
    [table, *_] = (run_dir / "wandb").rglob("samples*.table.json")
    cells = [cell for row in json.loads(table.read_text())["data"] for cell in row]
    assert_clean("".join(cell for cell in cells if isinstance(cell, str)))


@pytest.mark.parametrize("name", STRINGS)
def test_evaluation_of_hostile_questions(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = STRINGS[name]
    judged = question(text, "rw", text=text, answer=text, meta={"category": text})
    judged += question("b", "ww", text="b?", meta={"category": "other"})
    one = evaluation(judged, settings={text: text}, skipped={text: 2})
    results = write_report([one], tmp_path)
    print_overview(results)
    assert_clean(capsys.readouterr().out)
    page = (tmp_path / "report.md").read_text("utf-8")
    assert_clean(page)
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))
    tables = [part for part in page.split("\n\n") if part.startswith("| setting")]
    text_of(tables[0])  # nothing but text in it


@pytest.mark.parametrize("name", STRINGS)
def test_comparison_of_hostile_folders(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = file_name(STRINGS[name])
    first, second = (
        folder(tmp_path / side / own, {STRINGS[name]: marks, "b": "r"}, benchmark=own)
        for side, marks in (("a", "r"), ("b", "w"))
    )
    comparison = compare(first, second)
    write_comparison(comparison, tmp_path / "out")
    print_comparison(comparison)
    assert_clean(capsys.readouterr().out)
    page = (tmp_path / "out/comparison.md").read_text("utf-8")
    assert_clean(page)
    text_of(page.split("\n\n")[1])


@pytest.mark.parametrize("name", STRINGS)
def test_study_of_hostile_names(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = STRINGS[name]
    row = {"step": 1.0, "val/accuracy": 0.5, "val/length_tokens": 3.0}
    row |= {"completion/length_tokens": 3.0}
    bins = [
        {"mean_length": 3.0, "num_sequences": 1, "num_learning": 1}
        | dict.fromkeys(("inside", "accepted", "weight", "weight_first"), 0.5)
    ]
    lengths = {"bins": bins} | dict.fromkeys(("lre_inside", "lre_accepted", "lre_inside_floor"))
    outcomes = [Outcome(text, side, 0, [row], [row], lengths) for side in (text, "other")]
    write_study(outcomes, tmp_path)
    assert_clean(capsys.readouterr().out)
    assert_clean((tmp_path / "table.md").read_text("utf-8"))
    text_of((tmp_path / "table.md").read_text("utf-8"))


def test_audit_of_hostile_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = rows(tmp_path / file_name(STRINGS["escapes"]) / "train.jsonl")
    audit(str(path), output=tmp_path / "page.html")
    assert_clean(capsys.readouterr().out)
    page = (tmp_path / "page.html").read_text("utf-8")
    assert_clean(page)
    assert "<script" not in page
    assert "<img src=x" not in page
