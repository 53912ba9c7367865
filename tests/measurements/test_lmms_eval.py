r"""lmms-eval as a second harness: its tasks with local data, and why its scorer differs from ours.

The last two need `make lmms-eval` (or VLM_RL_LMMS_EVAL, an environment that has it) and take half a
minute each, most of it for lmms-eval's imports.

Broken on purpose, one at a time, each seen red:
    tasks.py: a copy under the official name; an included file not looked into for a judge;
        every folder taken for a saved one; unknown tasks, unknown data and absent folders accepted
    environment.py: a folder without lmms-eval accepted
    cross_check.py: a benchmark without such a rule accepted; the value as gold of a choice; the
        mended gold; agreement without both wrong; columns of the table swapped; responses without
        a ruling counted; differences from the official rule left out
    kinds.py: each condition, one by one
    run.py: the format score told; the number of threads left to lmms-eval
    rule_scorer.py: thinking not cut off; no answer read in part; every answer read in part
"""

import json
import os
from pathlib import Path

import datasets
import pytest
import yaml
from PIL import Image

from measurements.lmms_eval import tasks
from measurements.lmms_eval.cross_check import (
    Compared,
    _agreement,
    _by_kind,
    compare,
    cross_check,
    their_gold,
)
from measurements.lmms_eval.environment import DEFAULT, Environment
from measurements.lmms_eval.kinds import Theirs, kind_of
from measurements.lmms_eval.run import _summary, run
from tests.support.places import REPOSITORY
from vlm_rl.evaluation.benchmarks.benchmark import Judged, Response, Ruling
from vlm_rl.records import Problem, Verdict

ROOT = REPOSITORY
INSTALLED = Path(os.environ.get("VLM_RL_LMMS_EVAL", DEFAULT))
needs_lmms_eval = pytest.mark.skipif(
    not INSTALLED.exists(), reason="lmms-eval is absent; `make lmms-eval` installs it"
)


@pytest.fixture
def official(tmp_path):
    """Write tasks as lmms-eval has them: one by rule, one with a judge in the file it includes."""
    folder = tmp_path / "tasks" / "bench"
    folder.mkdir(parents=True)
    (folder / "rule.yaml").write_text(
        'task: "bench_reasoning"\nmetric_list:\n  - metric: acc_score'
    )
    (folder / "judged.yaml").write_text("include: _common\ntask: bench\ndataset_path: a/b")
    (folder / "_common").write_text("metric_list:\n  - metric: gpt_eval_score\n")
    return folder.parent


def judged(answer, *, gold="5", correct=False, rule="", choices=None, official=None, **meta):
    return Judged(
        problem=Problem(uid="1", question="q", answer=gold, choices=choices, meta=meta),
        response=Response("1", 0, "text"),
        answer=answer,
        verdict=Verdict.CORRECT if correct else Verdict.WRONG,
        rule=rule,
        answer_class=None,
        official=None if official is None else Ruling(official, None, ""),
    )


def theirs(answer, *, correct, place="box", rule="none", partly=False):
    return Theirs(correct, answer, place, rule, partly)


def test_tasks_are_found_by_name_and_a_misspelt_one_is_refused(official):
    files = tasks.find(official, ["bench", "bench_reasoning"])
    assert {name: path.name for name, path in files.items()} == {
        "bench": "judged.yaml",
        "bench_reasoning": "rule.yaml",
    }
    with pytest.raises(ValueError, match=r"no task 'bench_reasonin'; did you mean bench_reasoning"):
        tasks.find(official, ["bench_reasonin"])


def test_a_judge_is_seen_in_an_included_file(official):
    files = tasks.find(official, ["bench", "bench_reasoning"])
    assert tasks.judge_metric(files["bench"]) == "gpt_eval_score"
    assert tasks.judge_metric(files["bench_reasoning"]) is None


def test_a_local_task_includes_the_official_one_under_a_name_of_its_own(official, tmp_path):
    files = tasks.find(official, ["bench", "bench_reasoning"])
    saved, downloaded = tmp_path / "saved", tmp_path / "downloaded"
    downloaded.mkdir()
    datasets.DatasetDict({"test": datasets.Dataset.from_dict({"id": ["1"]})}).save_to_disk(saved)
    names = tasks.write_local(files, {"bench_reasoning": saved}, tmp_path)
    assert names == ["bench", "bench_reasoning_local"]
    written = yaml.safe_load((tmp_path / "bench_reasoning_local.yaml").read_text())
    assert written == {
        "include": str(official / "bench" / "rule.yaml"),
        "task": "bench_reasoning_local",
        "dataset_path": str(saved),
        "dataset_kwargs": {"load_from_disk": True},
    }
    tasks.write_local(files, {"bench": downloaded}, tmp_path)
    assert yaml.safe_load((tmp_path / "bench_local.yaml").read_text())["dataset_kwargs"] == {}


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        ("bench", "nowhere", "no folder .*nowhere with the data of bench"),
        ("other", ".", "--data is for 'other', which is not among --tasks"),
    ],
)
def test_wrong_local_data_is_refused(official, tmp_path, name, folder, message):
    files = tasks.find(official, ["bench"])
    with pytest.raises(ValueError, match=message):
        tasks.write_local(files, {name: tmp_path / folder}, tmp_path)


def test_a_missing_environment_names_the_command_that_makes_it(tmp_path, capsys):
    command = ["--model", "m", "--tasks", "t", "--output", "o", "--environment", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        run(command)
    assert ended.value.code == 2
    assert "`make lmms-eval` installs it" in capsys.readouterr().err


def test_a_benchmark_without_such_a_rule_is_refused(capsys, tmp_path, monkeypatch):
    (tmp_path / "lib/python3.11/site-packages/lmms_eval/tasks").mkdir(parents=True)
    options = ["--responses", "r.jsonl", "--output", "o", "--environment", str(tmp_path)]
    with pytest.raises(SystemExit):
        cross_check(["--benchmark", "math500", *options])
    assert "--benchmark math500: lmms-eval has no such rule" in capsys.readouterr().err


def test_the_summary_has_figures_without_errors_and_format_score():
    results = {
        "results": {
            "t": {
                "alias": "t",
                "acc_score,none": 0.25,
                "acc_score_stderr,none": 0.1,
                "format_score,none": 0.0,
            }
        },
        "n-samples": {"t": {"original": 304, "effective": 4}},
    }
    assert _summary(results) == "t acc_score 0.2500 (4 problems)"


def test_lmms_eval_compares_with_the_letter_of_a_choice_and_else_with_the_published_gold():
    choice = Problem("1", "q", "B", choices=("x", "y"), meta={"gold": "y"})
    damaged = Problem("2", "q", r"4 \pi", meta={"gold": r"$4 \pi$"})
    assert [their_gold(p) for p in (choice, damaged, Problem("3", "q", "7"))] == [
        "B",
        r"$4 \pi$",
        "7",
    ]


A_AND_B = ("1", "2")


@pytest.mark.parametrize(
    ("ours", "their", "kind"),
    [
        (
            judged(None, rule="no answer slot"),
            theirs("5", correct=True, place="end of a line"),
            "theirs reads the number at the end of a line, ours finds no answer slot",
        ),
        (
            judged(None, rule="hedge: 2 different answers"),
            theirs("5", correct=True),
            "theirs reads the last box, ours refuses several different answers",
        ),
        (
            judged("A and B", gold="A", choices=A_AND_B),
            theirs("A and B", correct=True, rule="letter"),
            "theirs finds the gold's letter within other text",
        ),
        (
            judged("{A}", gold="A", choices=A_AND_B),
            theirs("(A)", correct=True, rule="letter"),
            "math-verify calls it equal, ours not",
        ),
        (
            judged("long text.", gold="long text"),
            theirs("long text.", correct=True, rule="nearly the same text"),
            "theirs has the same text to 90 %, ours not",
        ),
        (
            judged(r"5\pi"),
            theirs(r"5\pi", correct=True, rule="math-verify", partly=True),
            r"math-verify, given bare LaTeX, reads a part of it such as the 18 of 18\pi",
        ),
        (
            judged("5", correct=True),
            theirs("", correct=False, place="nowhere"),
            "theirs reads no answer",
        ),
        (
            judged("(a)", gold="A", correct=True),
            theirs("(a)", correct=False),
            "ours takes a small letter for a capital",
        ),
        (
            judged("1", gold="A", choices=A_AND_B, correct=True),
            theirs("1", correct=False),
            "ours takes the value of the gold's option, theirs only its letter",
        ),
        (
            judged("4", gold="4", published="$4$", correct=True),
            theirs("4", correct=False),
            "ours mends a damaged gold",
        ),
        (
            judged("3 + x", gold="x+3", correct=True),
            theirs("3 + x", correct=False),
            "math-verify calls it different, ours not",
        ),
    ],
)
def test_a_difference_has_the_kind_that_explains_it(ours, their, kind):
    gold = ours.problem.meta.get("published", ours.problem.answer)
    assert kind_of(ours, their, gold) == kind


def test_the_agreement_counts_each_verdict_once():
    # strict, official, lmms-eval of six responses, one of them without an official ruling
    verdicts = [(1, 1, 1), (1, 0, 0), (0, 1, 1), (0, 0, 0), (0, None, 1), (0, 1, 0)]
    compared = [
        Compared(judged("5", correct=bool(s), official=o), theirs("5", correct=bool(t)))
        for s, o, t in verdicts
    ]
    assert _agreement(compared) == [
        "| strict (6) | 2 (33.33 %) | 3 (50.00 %) | 3 (50.00 %) | 1 | 2 |",
        "| official (5) | 3 (60.00 %) | 2 (40.00 %) | 4 (80.00 %) | 1 | 0 |",
    ]
    assert [each.differs for each in compared] == [False, True, True, False, True, True]


def test_a_kind_that_goes_both_ways_has_a_row_for_each():
    part = {"partly": True, "rule": "math-verify"}
    compared = [
        Compared(judged(r"18\pi"), theirs(r"18\pi", correct=True, **part)),
        Compared(judged(r"24+\pi", correct=True), theirs("24", correct=False, **part)),
    ]
    assert compared[0].kind == compared[1].kind
    rows = _by_kind(compared)
    assert [winner for winner, _ in rows] == ["lmms-eval", "strict"]


@needs_lmms_eval
def test_lmms_evals_rules_on_answers_with_known_outcomes():
    asked = {
        ("5", r"<think>\boxed{4}</think>It is 5"): (
            True,
            "end of a line",
            "nearly the same text",
            False,
        ),
        ("18", r"\boxed{18\pi}"): (True, "box", "math-verify", True),
        ("0.5", r"\boxed{\frac{1}{2}}"): (True, "box", "math-verify", False),
        ("A", r"\boxed{All of the above}"): (True, "box", "letter", False),
        ("3", "behind Kim 3.\nSo there are 9 children."): (
            True,
            "end of a line",
            "nearly the same text",
            False,
        ),
        ("3", "<answer>3</answer>"): (True, "tag", "nearly the same text", False),
        ("3", "three"): (False, "nowhere", "none", False),
    }
    ours = [
        Judged(Problem("1", "q", gold), Response("1", 0, text), None, Verdict.WRONG, "", None, None)
        for gold, text in asked
    ]
    scored = [each.theirs for each in compare(ours, Environment(INSTALLED))]
    assert [(t.correct, t.place, t.rule, t.partly) for t in scored] == list(asked.values())


@needs_lmms_eval
def test_a_checkpoint_goes_through_lmms_evals_own_class_and_task(tmp_path, capfd):
    rows = {
        "id": ["1", "2"],
        "question": ["How many? <image1>"] * 2,
        "options": [[], ["x", "y"]],
        "image": ["images/1.jpg"] * 2,
        "decoded_image": [Image.new("RGB", (60, 40), "white")] * 2,
        "answer": ["3", "A"],
        "solution": [None, None],
        "level": [1, 2],
        "subject": ["counting"] * 2,
    }
    features = datasets.Features(
        {name: datasets.Value("string") for name in rows}
        | {"options": datasets.List(datasets.Value("string")), "decoded_image": datasets.Image()}
        | {"level": datasets.Value("int64")}
    )
    data = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"testmini": data}).save_to_disk(tmp_path / "data")
    task = "mathvision_reason_testmini_reasoning"
    run(
        [
            "--model",
            str(ROOT / "data_prep" / "warm_start"),
            "--tasks",
            task,
            "--data",
            f"{task}={tmp_path / 'data'}",
            "--output",
            str(tmp_path / "out"),
            "--gen_kwargs",
            "max_new_tokens=4",
            "--device",
            "cpu",
            "--environment",
            str(INSTALLED),
        ]
    )
    last = capfd.readouterr().out.strip().splitlines()[-1]
    assert last.startswith(f"{task}_local acc_score 0.0000 (2 problems); {tmp_path / 'out'}")
    (results,) = (tmp_path / "out").rglob("*results.json")
    # more than one thread would score 0 whatever only math-verify calls equal
    assert json.loads(results.read_text())["config"]["process_docs_parallel"] == 1
    (samples,) = (tmp_path / "out").rglob("*samples*.jsonl")
    assert [json.loads(line)["target"] for line in samples.open()] == ["3", "A"]
