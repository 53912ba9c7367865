"""`python -m vlm_rl.verify`: verdict and rule of each line, what disagrees, and clear refusals.

Broken on purpose, one at a time, each seen red: an unparsable answer taken for an
expected one; lines counted from 0; the input overwritten; every disagreement printed.
"""

import json
import subprocess
import sys

import pytest

from vlm_rl.records import Verdict
from vlm_rl.verify import main, verify

LINES = [
    {"id": 7, "gold": "5 m", "prediction": "500 cm", "answer_type": "number_unit"},
    {
        "id": "b",
        "gold": "B",
        "prediction": r"<think>\boxed{A}</think> \boxed{B}",
        "prediction_kind": "response",
        "answer_type": "choice",
        "options": ["1", "2"],
        "expected": True,
        "why": "other fields are left alone",
    },
    {
        "gold": "5",
        "prediction": "5 <answer>6</answer>",
        "prediction_kind": "response",
        "answer_style": "tag",
        "expected": False,
        "tolerance": None,
    },
    {"gold": "7.1", "prediction": r"5\sqrt{2}", "tolerance": {"abs": 0.05}, "expected": False},
    {"gold": "5", "unit": "cm", "prediction": "5 kg", "answer_type": "number_unit"},
    {"gold": "5", "prediction": "no box", "prediction_kind": "response"},
]


def written(tmp_path, lines):
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_each_line_has_answer_verdict_and_rule(tmp_path, capsys):
    path = written(tmp_path, LINES)
    counts = verify(path)
    records = [
        json.loads(line)
        for line in (tmp_path / "answers.jsonl.verdicts.jsonl").read_text().splitlines()
    ]
    fields = ("id", "answer", "verdict", "rule")
    assert [tuple(record[field] for field in fields) for record in records] == [
        (7, "500 cm", "correct", "number_unit: same value"),
        ("b", "B", "correct", "choice: letter"),
        (3, "6", "wrong", "number: another value"),
        (4, r"5\sqrt{2}", "correct", "number: same value"),
        (5, "5 kg", "wrong", "number_unit: another unit"),
        (6, None, "unparsable", "no answer slot"),
    ]
    assert counts == {Verdict.CORRECT: 3, Verdict.WRONG: 2, Verdict.UNPARSABLE: 1}
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "3 correct, 2 wrong, 1 unparsable, 0 timeout, 0 error"
    assert printed[1].startswith("id 4: '5\\\\sqrt{2}' for the number gold '7.1' is not right")
    assert printed[2] == "2 of 3 as expected (66.7 %)"
    assert printed[3] == f"verdicts of 6 answers: {path}.verdicts.jsonl"


@pytest.mark.parametrize(
    ("prediction", "opened", "verdict"),
    [
        (r"so \boxed{5}", True, Verdict.UNPARSABLE),
        (r"so \boxed{4}</think> \boxed{5}", True, Verdict.CORRECT),
        (r"so \boxed{5}", False, Verdict.CORRECT),
        (r"so \boxed{5}", None, Verdict.CORRECT),
    ],
)
def test_thinking_that_the_prompt_has_opened(tmp_path, prediction, opened, verdict):
    line = {"gold": "5", "prediction": prediction, "prediction_kind": "response"}
    assert verify(written(tmp_path, [line | {"thinking_opened": opened}])) == {verdict: 1}


def test_at_most_twenty_disagreements_are_printed(tmp_path, capsys):
    lines = [{"gold": "5", "prediction": str(k), "expected": True} for k in range(100, 125)]
    verify(written(tmp_path, lines), tmp_path / "out.jsonl")
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("id ") for line in printed) == 20
    assert "and 5 more that disagree" in printed
    assert (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("[1]", "line 2: must be an object"),
        ('{"gold": "5"}', "line 2: prediction is missing"),
        ('{"gold": 5, "prediction": "5"}', "line 2: gold must be text, got 5; put it in quotes"),
        ('{"gold": "5", "prediction": "5", "answer_type": "n"}', "answer_type must be one"),
        ('{"gold": "5", "prediction": "5", "prediction_kind": "x"}', "must be one of answer, resp"),
        ('{"gold": "5", "prediction": "5", "answer_style": "x"}', "must be one of box, tag"),
        ('{"gold": "5", "prediction": "5", "options": "AB"}', "options must be a list of texts"),
        ('{"gold": "5", "prediction": "5", "expected": 1}', "expected must be true or false"),
        (
            '{"gold": "5", "prediction": "5", "thinking_opened": 1}',
            "thinking_opened must be true or",
        ),
        ('{"gold": "5", "prediction": "5", "thinking_opened": true}', "prediction_kind is answer"),
        ('{"gold": "5", "prediction": "5", "tolerance": {"x": 1}}', "tolerance must be such as"),
        ('{"gold": "5", "prediction": "5", "tolerance": {"abs": NaN}}', "must be such as"),
    ],
)
def test_malformed_line_is_named_in_one_line(tmp_path, capsys, line, message):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"gold": "5", "prediction": "5"}\n' + line + "\n")
    with pytest.raises(SystemExit):
        main([str(path)])
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"vlm_rl.verify: {path} line 2: ")
    assert message in error
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, [], "No such file"),
        ("\n\n", [], "has no lines to check"),
        ("\xff", [], "is not UTF-8 text"),
        ("{}", ["--output", "{file}"], "is the input itself"),
        ('{"gold": "5", "prediction": "5"}', ["--output", "{file}/x"], "is not a folder"),
        ("{}", ["--workers", "0"], "workers"),
    ],
)
def test_unusable_file_or_option_is_one_line(tmp_path, capsys, content, arguments, message):
    path = tmp_path / "answers.jsonl"
    if content is not None:
        path.write_text(content, encoding="latin-1")
    with pytest.raises(SystemExit):
        main([str(path), *(argument.format(file=path) for argument in arguments)])
    (error,) = capsys.readouterr().err.splitlines()
    assert message in error


def test_command_runs_and_survives_any_text(tmp_path):
    lines = [{"gold": "5", "prediction": text} for text in ("\ud800", "\x00", "5\n", "(" * 99)]
    done = subprocess.run(
        [sys.executable, "-m", "vlm_rl.verify", str(written(tmp_path, lines))],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("1 correct")
