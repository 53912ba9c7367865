"""Data that has changed since the checkpoint: what is named, what is refused, what is gone on with.

Broken on purpose, one at a time, each seen red: a field taken out of `FIELDS`; the digest of an
image replaced by its path; the level of `only_new` lowered; validation not compared; `moved` taken
out; `_check_lengths` after the problem is made, or without `images` left out.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.places import TINY_POLICY
from tests.support.problem_data import JPEG, NOISE, data
from tests.support.tiny import png
from vlm_rl.data.datamodule import DataSource, ProblemData
from vlm_rl.data.prompts import PromptEncoder

Rows = list[dict[str, Any]]
ROWS: Rows = [
    {"uid": f"r{i}", "problem": f"<image>{i}?", "answer": str(i), "images": [f"{i}.jpeg"]}
    for i in range(8)
]


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return PromptEncoder(str(TINY_POLICY), max_prompt_tokens=400)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for i in range(len(ROWS) + 4):
        (tmp_path / f"{i}.jpeg").write_bytes(JPEG + bytes([i]))
    return tmp_path


def read(
    folder: Path, encoder: PromptEncoder, train: Rows, val: Rows, **options: Any
) -> ProblemData:
    paths = []
    for name, rows in (("train", train), ("val", val)):
        paths.append(folder / f"{name}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = [DataSource(str(paths[1]))] if val else []
    return data(encoder, str(paths[0]), val=sources, **options)


def edited(rows: Rows, number: int, **columns: Any) -> Rows:
    return [row | columns if i == number else row for i, row in enumerate(rows)]


EDITS: dict[str, dict[str, Any]] = {
    "question": {"problem": "<image>3 or 4?"},
    "answer": {"answer": "4"},
    "answer_type": {"answer_type": "text"},
    "choices": {"choices": ["3", "4"]},
    "unit": {"unit": "cm"},
    "tolerance": {"tolerance": {"abs": 0.5}},
    "answer_style": {"answer_style": "box"},
    "task": {"task": "counting"},
    "meta": {"meta": {"level": 2}},
}


@pytest.mark.parametrize("field", EDITS)
def test_edited_field_is_refused_with_row_and_field(
    field: str, images: Path, encoder: PromptEncoder
) -> None:
    state = read(images, encoder, ROWS, []).state_dict()
    other = read(images, encoder, edited(ROWS, 3, **EDITS[field]), [], accept_changes="added")
    with pytest.raises(ValueError, match="training data") as refused:
        other.load_state_dict(state)
    line = str(refused.value)
    assert f"1 row edited: 'r3' ({field}); put it back" in line
    assert "data.accept_changes=all" in line
    assert "\n" not in line


def test_swapped_image_is_noticed_by_its_bytes(images: Path, encoder: PromptEncoder) -> None:
    state = read(images, encoder, ROWS, []).state_dict()
    (images / "5.jpeg").write_bytes(png(NOISE.rotate(90), "JPEG"))
    with pytest.raises(ValueError, match=r"1 row edited: 'r5' \(images\);"):
        read(images, encoder, ROWS, []).load_state_dict(state)


def test_the_same_image_at_another_path_is_no_change(images: Path, encoder: PromptEncoder) -> None:
    before = read(images, encoder, ROWS, [])
    (images / "5.jpeg").rename(images / "moved.jpeg")
    after = read(images, encoder, edited(ROWS, 5, images=["moved.jpeg"]), [])
    after.load_state_dict(before.state_dict())


NEW: Rows = [
    {"uid": f"r{i}", "problem": "<image>new?", "answer": "1", "images": [f"{i}.jpeg"]}
    for i in range(8, 12)
]
CHANGES: dict[str, tuple[Callable[[], tuple[Rows, Rows]], str, str]] = {
    "new": (
        lambda: (ROWS + NEW, NEW[:1]),
        "added",
        "the training data has changed since: 4 rows new: 'r8', 'r9', 'r10' and 1 more",
    ),
    "new in the middle": (lambda: (ROWS[:4] + NEW + ROWS[4:], NEW[:1]), "added", "4 rows new"),
    "gone": (lambda: (ROWS[:6], NEW[:1]), "all", "2 rows gone: 'r6', 'r7'"),
    "moved": (lambda: (ROWS[::-1], NEW[:1]), "all", "rows in another order"),
    "validation": (
        lambda: (ROWS, NEW[1:2]),
        "validation",
        "the validation data has changed since: 1 row gone: 'r8'; 1 row new: 'r9'",
    ),
    "both": (
        lambda: (edited(ROWS, 0, answer="9"), NEW[1:2]),
        "all",
        "'r0' (answer); the validation data has changed since: 1 row gone",
    ),
}
LEVELS = ("none", "validation", "added", "all")


@pytest.mark.parametrize("kind", CHANGES)
def test_change_needs_its_word_and_a_stronger_one_will_do(
    kind: str, images: Path, encoder: PromptEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    changed, needed, named = CHANGES[kind]
    state = read(images, encoder, ROWS, NEW[:1]).state_dict()
    for level in LEVELS:
        module = read(images, encoder, *changed(), accept_changes=level)
        capsys.readouterr()
        if LEVELS.index(level) < LEVELS.index(needed):
            with pytest.raises(ValueError, match=f"data.accept_changes={needed}, or") as refused:
                module.load_state_dict(state)
            assert named in str(refused.value)
        else:
            module.load_state_dict(state)
            module.load_state_dict(state)  # says it once
            said = capsys.readouterr().out
            assert f"data.accept_changes={level} accepts it" in said
            lines = said.splitlines()
            assert len(lines) == len(set(lines)) == (2 if kind == "both" else 1)
            assert ("come again" in said) == (kind in ("new", "new in the middle", "gone", "moved"))


def test_steps_after_added_rows_are_those_of_a_run_that_always_had_them(
    images: Path, encoder: PromptEncoder
) -> None:
    before = read(images, encoder, ROWS, [])
    before.completed_steps = 3
    state = before.state_dict()
    after = read(images, encoder, ROWS + NEW, [], accept_changes="added")
    after.load_state_dict(state)
    fresh = read(images, encoder, ROWS + NEW, [])
    assert after.completed_steps == 3
    steps = [after.mixture.batch(step) for step in range(3, 6)]
    assert steps == [fresh.mixture.batch(step) for step in range(3, 6)]
    assert {index for step in steps for index in step} & set(range(8, 12))


def test_state_is_plain_and_small(images: Path, encoder: PromptEncoder, tmp_path: Path) -> None:
    state = read(images, encoder, ROWS, NEW).state_dict()
    torch.save(state, tmp_path / "state")
    again = torch.load(tmp_path / "state", weights_only=True)
    assert again["rows"]["training"][0]["uids"] == [row["uid"] for row in ROWS]
    digests = again["rows"]["training"][0]["digests"]
    assert digests.numel() * digests.itemsize == 44 * len(ROWS)


def test_checkpoint_without_digests_is_refused_in_one_line(
    images: Path, encoder: PromptEncoder
) -> None:
    module = read(images, encoder, ROWS, [])
    state = module.state_dict()
    del state["rows"]
    with pytest.raises(ValueError, match="written by another version"):
        module.load_state_dict(state)
