"""Responses on disk: what a kill leaves, and files that were made elsewhere.

Broken on purpose, one at a time, each seen red:
    a last line without its end kept; lines cut at U+2028 as well, in own files and in others'
    one seed for all batches; batches taken by their length alone
    samples in the order of the file; a file without a response; a sample twice, unequal numbers,
        a truth for a number not refused; lengths and extraction dropped
"""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from vlm_rl.evaluation.benchmarks.benchmark import Response
from vlm_rl.evaluation.responders import Responder
from vlm_rl.evaluation.responses import ResponseLog, batches_of, read_responses
from vlm_rl.records import Problem

PROBLEMS = [
    Problem(uid=f"set-{n}", question="q", answer="1", meta={"id": str(n)}) for n in range(5)
]
SEPARATORS = "one\u2028two\u0085three\x0cfour\n"
"""Python takes each of these for the end of a line, JSON only the last, which it escapes."""


class Scribe(Responder):
    """Writes what it was asked; keeps the batches."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def respond(
        self, problems: Sequence[Problem], *, samples: int, seed: int
    ) -> list[list[Response]]:
        self.asked.append([problem.uid for problem in problems])
        return [
            [Response(p.uid, n, f"{seed} {SEPARATORS}", 3, False) for n in range(samples)]
            for p in problems
        ]


def log_at(path: Path, *, size: int = 2) -> ResponseLog:
    return ResponseLog(path, batches_of(PROBLEMS, size, samples=2))


def answered(path: Path) -> list[list[str]]:
    """Complete the file; return what had to be asked."""
    scribe = Scribe()
    log_at(path).answer(scribe, 7, lambda: None)
    return scribe.asked


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "own" / "responses.jsonl"
    assert answered(path) == [["set-0", "set-1"], ["set-2", "set-3"], ["set-4"]]
    return path


def test_responses_come_back_as_they_were_given(whole: Path) -> None:
    log = log_at(whole)
    assert not log.missing
    groups = log.groups
    assert [[r.uid for r in group] for group in groups] == [[p.uid] * 2 for p in PROBLEMS]
    assert [[r.sample for r in group] for group in groups] == [[0, 1]] * 5
    texts = [{r.text for r in group} for group in groups]
    assert all(text.endswith(SEPARATORS) for [text] in texts)
    assert texts[0] == texts[1] != texts[2]  # a batch has a seed of its own


def test_file_cut_at_any_byte_is_completed_to_the_same_file(whole: Path) -> None:
    """By batches: those that are whole stay, the one that was begun is asked again."""
    content = whole.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    assert len(ends) == 10
    around = {
        end + shift for end in ends for shift in (-2, -1, 0, 1) if end + shift <= len(content)
    }
    for cut in sorted({0, *range(0, len(content), 37), *around}):
        whole.write_bytes(content[:cut])
        complete = sum(content[:cut].count(b"\n") >= lines for lines in (4, 8, 10))
        missing = len(answered(whole))
        assert whole.read_bytes() == content, cut
        assert missing in (3 - complete, 2 - complete), cut
        assert missing == 3 - complete or content[:cut].count(b"\n") in (3, 7, 9), cut


def test_batch_of_other_questions_is_not_taken(whole: Path) -> None:
    rows = [json.loads(line) for line in whole.open(encoding="utf-8", newline="\n")]
    rows[5]["uid"] = "set-9"
    whole.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert answered(whole) == [["set-2", "set-3"]]


def given(folder: Path, *rows: object) -> Path:
    path = folder / "given.jsonl"
    texts = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return path


def test_given_responses_are_matched_by_id_or_uid_and_keep_their_fields(tmp_path: Path) -> None:
    known = {"length_tokens": 3, "truncated": True, "extraction": ["x"], "model": "other fields"}
    path = given(
        tmp_path,
        {"id": 3, "response": SEPARATORS, "sample": 1} | known,
        "",
        {"id": "set-0", "response": "first"},
        {"id": "3", "response": "", "sample": 0, "length_tokens": None},
        {"id": "0", "response": "second"},
    )
    assert read_responses(path, PROBLEMS) == {
        "set-3": [
            Response("set-3", 0, ""),
            Response("set-3", 1, SEPARATORS, 3, True, extraction=["x"]),
        ],
        "set-0": [Response("set-0", 0, "first"), Response("set-0", 1, "second")],
    }


GOOD = {"id": "1", "response": "r"}
MALFORMED = {
    "nothing": ((), "given.jsonl holds no response"),
    "no JSON": ((GOOD, "{'id': 1}"), "line 2: not JSON"),
    "no object": (("[1, 2]",), "row 1 is not a JSON object"),
    "no id": (({"response": "r"},), "line 1 needs `id`"),
    "no response": (({"id": "1", "answer": "r"},), "it has id, answer"),
    "response of another type": (({"id": "1", "response": 5},), "the text `response`"),
    "unknown id": ((GOOD, {"id": 99, "response": "r"}), r"2: no problem .* 99 .*name the split"),
    "length as text": ((GOOD | {"length_tokens": "9"},), "length_tokens must be of type int"),
    "sample as truth": ((GOOD | {"sample": True},), "sample must be of type int"),
    "truncated as number": ((GOOD | {"truncated": 1},), "truncated must be of type bool"),
    "sample twice": ((GOOD | {"sample": 4}, GOOD | {"sample": 4}), "has its sample 4 twice"),
    "unequal numbers": (
        (GOOD, GOOD, {"id": "2", "response": "r"}, {"id": "3", "response": "r"}),
        "most problems have 1 responses, 'set-1' has 2",
    ),
}


@pytest.mark.parametrize(("rows", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_file_is_one_line_with_its_place(
    rows: Sequence[object], message: str, tmp_path: Path
) -> None:
    path = given(tmp_path, *rows)
    with pytest.raises(ValueError, match=message) as raised:
        read_responses(path, PROBLEMS)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no responses file .*absent\.jsonl"):
        read_responses(tmp_path / "absent.jsonl", PROBLEMS)
    other = tmp_path / "latin.jsonl"
    other.write_bytes('{"id": "1", "response": "ä"}\n'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.jsonl is not UTF-8 text"):
        read_responses(other, PROBLEMS)


def test_half_a_character_is_replaced_and_not_fatal(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    path.write_text('{"id": "a", "response": "half \\ud83d of it"}\n')
    (response,) = read_responses(path, [Problem(uid="a", question="?", answer="1")])["a"]
    assert response.text == "half ? of it"
