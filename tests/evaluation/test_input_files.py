"""Files of answers and responses as people make them: every form of one file reads the same.

Broken on purpose, one at a time, each seen red:
    json_rows.py: no mark dropped, none in the middle; gzip known by its name; a torn archive let
        through; a list read by lines; the key of an object not its id; UTF-16 not read
    responses.py: null not an answer; ids of another name; questions not compared
    provenance.py: one odd row enough; hints not allowed for; digest not looked at
    verify.py: null refused
"""

import gzip
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.places import SHARED
from vlm_rl.data.json_rows import json_rows
from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.loading import load
from vlm_rl.evaluation.provenance import question_sha256
from vlm_rl.evaluation.responses import read_responses
from vlm_rl.records import Problem
from vlm_rl.verify import read_cases

Rows = Sequence[dict[str, Any]]


def as_lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_object(rows: Rows, **layout: Any) -> bytes:
    return json.dumps({row["id"]: row | {"id": row["id"]} for row in rows}, **layout).encode()


FORMS: dict[str, Callable[[Rows], bytes]] = {
    "lines": as_lines,
    "no last end of line": lambda rows: as_lines(rows).rstrip(),
    "empty lines": lambda rows: as_lines(rows).replace(b"\n", b"\n \n\n"),
    "ends of Windows": lambda rows: as_lines(rows).replace(b"\n", b"\r\n"),
    "mark": lambda rows: b"\xef\xbb\xbf" + as_lines(rows),
    "put together": lambda rows: b"".join(b"\xef\xbb\xbf" + as_lines([row]) for row in rows),
    "utf-16": lambda rows: as_lines(rows).decode().encode("utf-16"),
    "gzip": lambda rows: gzip.compress(as_lines(rows)),
    "gzip in two parts": lambda rows: b"".join(gzip.compress(as_lines([row])) for row in rows),
    "list": lambda rows: json.dumps(rows).encode(),
    "list by lines": lambda rows: b"[" + as_lines(rows).rstrip().replace(b"\n", b",\n") + b"]",
    "indented list": lambda rows: json.dumps(rows, indent=2).encode(),
    "object": as_object,
    "indented object": lambda rows: as_object(rows, indent=1),
    "list, mark and gzip": lambda rows: gzip.compress(b"\xef\xbb\xbf" + json.dumps(rows).encode()),
}
RESPONSES = [
    {"id": "1", "response": "ä one\u2028two", "question": "How many are there?"},
    {"id": "2", "response": "", "question": "How many are there?"},
    {"id": "3", "response": r"\boxed{3}", "question": "How many are there?", "sample": 0},
]
CASES = [
    {"id": "1", "gold": "5", "prediction": "5"},
    {"id": "2", "gold": "ä", "prediction": "é", "answer_type": "text"},
    {"id": "3", "gold": "B", "prediction": r"\boxed{B}", "prediction_kind": "response"},
]
PROBLEMS = [
    Problem(uid=str(n), question="How many are there?", answer="1", task="mathvista")
    for n in range(9)
]


def written(folder: Path, content: bytes, name: str = "given.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", ["given.jsonl", "given.jsonl.gz", "given.json", "given"])
def test_every_form_of_a_file_reads_the_same_whatever_its_name(
    form: Callable[[Rows], bytes], name: str, tmp_path: Path
) -> None:
    path = written(tmp_path, form(RESPONSES), name)
    plain = written(tmp_path, as_lines(RESPONSES), "plain.jsonl")
    assert read_responses(path, PROBLEMS) == read_responses(plain, PROBLEMS)
    cases, plain_cases = (
        read_cases(written(tmp_path, make(CASES), name)) for make in (form, as_lines)
    )
    assert cases == plain_cases


@pytest.mark.parametrize("read", [lambda path: read_responses(path, PROBLEMS), read_cases])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(as_lines(RESPONSES), mtime=0)[:-9], "cannot be unpacked"),
        (gzip.compress(as_lines(RESPONSES), mtime=0)[:9], "cannot be unpacked"),
        (b"\x1f\x8bnot an archive", "cannot be unpacked"),
        ("{'id': ä}".encode("latin-1"), "is not UTF-8 text"),
        (b"PK\x03\x04\xff", "is not UTF-8 text"),
        (b"[1, 2]", "row 1"),
        (b"[" * 100_000, "line 1: not JSON"),
        (b'[{"id": 1},\n{"id": 2}', "line 1: not JSON"),
        (b"null", "line 1"),
        (b'{"id": "1"}\n{', "line 1"),
        (b"[]", "given.jsonl h"),
        (b"{}", "line 1"),
        (b"", "given.jsonl h"),
        (b"\xef\xbb\xbf", "given.jsonl h"),
    ],
)
def test_unusable_file_is_one_line_that_names_it(
    read: Callable[[Path], object], content: bytes, message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=message) as raised:
        read(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_rows_have_the_number_of_their_line_or_element(tmp_path: Path) -> None:
    rows = json_rows(written(tmp_path, b'{"a": 1}\n\n{"a": 2}\n'))
    assert [(number, row) for _, number, row in rows] == [(1, {"a": 1}), (3, {"a": 2})]
    rows = json_rows(written(tmp_path, b'[{"a": 1},\n\n{"a": 2}]'))
    assert [number for _, number, _ in rows] == [1, 2]
    rows = json_rows(written(tmp_path, b'{"x": {"a": 1}, "y": {"id": 7}}'))
    assert [row for *_, row in rows] == [{"id": "x", "a": 1}, {"id": 7}]


def test_null_is_no_answer(tmp_path: Path) -> None:
    path = written(tmp_path, b'{"id": 1, "response": null}')
    (response,) = read_responses(path, PROBLEMS)["1"]
    assert response.text == ""
    for kind in ("answer", "response"):
        row = {"gold": "5", "prediction": None, "prediction_kind": kind}
        (case,) = read_cases(written(tmp_path, as_lines([row])))
        assert list(case.given) == []
    with pytest.raises(ValueError, match="gold is missing"):
        read_cases(written(tmp_path, b'{"gold": null, "prediction": "5"}'))


@pytest.mark.parametrize("name", ["id", "pid", "uid"])
def test_id_goes_by_each_of_its_published_names(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps({name: 4, "response": "r"}).encode())
    assert list(read_responses(path, PROBLEMS)) == ["4"]


TEXTS = [
    "How many sheep are on the left of the river in this picture?",
    "What is the perimeter of the quadrilateral ABCD, rounded to one decimal?",
    "Welche Farbe hat der größte Kreis unter den vier gezeichneten?",
    "\u5982\u56fe\uff0c\u5728\u4e09\u89d2\u5f62\u4e2d\uff0c\u70b9D\u662f\u8fb9\u7684\u4e2d\u70b9\uff0c\u6c42\u7ebf\u6bb5",
]
TOLD = [Problem(uid=str(n), question=text, answer="1") for n, text in enumerate(TEXTS)]
HARNESSES: dict[str, Callable[[str], dict[str, str]]] = {
    "as it is": lambda text: {"question": text},
    "marks": lambda text: {"question": f"<image>\n<image 1>{text}"},
    "hint": lambda text: {
        "query": f"Hint: answer with one letter.\nQuestion: {text}\nChoices: (A) 3"
    },
    "spaces": lambda text: {"prompt": text.replace(" ", "\n ").upper()},
    "cut": lambda text: {"problem": text[: len(text) // 2 + 8]},
}


def told(problems: Sequence[Problem], shift: int, harness: Callable[[str], dict[str, str]]) -> Rows:
    questions = [problems[(n + shift) % len(problems)].question for n in range(len(problems))]
    return [
        {"id": problem.uid, "response": "r"} | harness(question)
        for problem, question in zip(problems, questions, strict=True)
    ]


@pytest.mark.parametrize("harness", HARNESSES.values(), ids=HARNESSES)
def test_responses_to_other_questions_are_refused_and_to_the_same_taken(
    harness: Callable[[str], dict[str, str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(read_responses(written(tmp_path, as_lines(told(TOLD, 0, harness))), TOLD)) == 4
    assert caplog.text == ""
    for shift in (1, 2, 3):
        path = written(tmp_path, as_lines(told(TOLD, shift, harness)))
        with pytest.raises(ValueError, match="4 of 4 rows seem to hold another question"):
            read_responses(path, TOLD)


def test_own_samples_are_checked_by_their_digest(tmp_path: Path) -> None:
    digests = [question_sha256(problem) for problem in TOLD]
    for shift in (0, 1):
        rows = [
            {"uid": each.uid, "response": "r", "question_sha256": digests[n - shift]}
            for n, each in enumerate(TOLD)
        ]
        path = written(tmp_path, as_lines(rows))
        if shift:
            with pytest.raises(ValueError, match="another question"):
                read_responses(path, TOLD)
        else:
            assert len(read_responses(path, TOLD)) == 4


def test_single_odd_row_and_rows_without_question_are_a_line_of_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [*told(TOLD, 0, HARNESSES["as it is"])]
    rows[2] = rows[2] | {"question": TEXTS[0]}
    with caplog.at_level(logging.WARNING):
        assert len(read_responses(written(tmp_path, as_lines(rows)), TOLD)) == 4
    assert "1 of 4 rows seem to hold another question" in caplog.text
    assert "the first with the id '2'" in caplog.text
    caplog.clear()
    bare = [{"id": row["id"], "response": "r"} for row in rows]
    read_responses(written(tmp_path, as_lines(bare)), TOLD)
    assert "only the ids say" in caplog.text
    assert caplog.text.count("\n") == 1


def test_published_outputs_of_one_benchmark_are_refused_by_another() -> None:
    folder = SHARED / "data"
    output = folder / "mathvista" / "outputs" / "output_bard.json"
    if not output.exists():
        pytest.skip(f"needs the published outputs in {folder}")
    own = load(BENCHMARKS["mathvista"], str(folder / "mathvista/testmini.json"), images=False)
    assert len(read_responses(output, own)) == 1000
    other = load(BENCHMARKS["mathvision"], str(folder / "mathvision/test.jsonl"), images=False)
    with pytest.raises(ValueError, match="of 1000 rows seem to hold another question"):
        read_responses(output, other)
