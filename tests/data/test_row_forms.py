"""Rows in every form in which people have them, and no row that is trained on without its picture.

Rows are made from problems that are known and read back: the pixels, their order, the text around
them, options, system turn and answer. Where the files of the reference are present, they are read
too.
"""

import base64
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.places import SHARED
from tests.support.row_forms import CONTAINERS, FORMS, IN_TEXT, NAMINGS, OWN_COLUMNS, Truth, draw
from vlm_rl.data.images import ImageStore
from vlm_rl.data.rows import SourceRows, read_problems
from vlm_rl.records import IMAGE_MARK, Problem

REFERENCE = SHARED / "data/row_forms"
EXPECTED = REFERENCE / "expected.json"
ROWS = 12


def read(file: Path, images: ImageStore | None = None, **how: Any) -> SourceRows:
    return read_problems(str(file), images or ImageStore(), owners={}, **how)


def pixels(image: bytes | Path) -> tuple[tuple[int, int], bytes]:
    with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
        return opened.size, opened.convert("RGB").tobytes()


def assert_says(problem: Problem, truth: Truth) -> None:
    assert problem.question == truth.marked
    assert [*map(pixels, problem.images)] == [*map(pixels, truth.images)]
    assert problem.answer == truth.answer
    assert problem.choices == (None if truth.options is None else tuple(truth.options))
    assert problem.system == truth.system


CASES = [(form, container) for form in FORMS for container in CONTAINERS]


@pytest.mark.parametrize(("form", "container"), CASES)
def test_rows_say_what_they_were_made_from(form: str, container: str, tmp_path: Path) -> None:
    rng = random.Random(f"{form} {container}")
    binary = container in ("parquet", "arrow")
    truths, rows = [], []
    naming = ""
    for number in range(ROWS):
        truth = draw(rng, number)
        if form not in OWN_COLUMNS and truth.options is not None:
            truth = Truth(truth.texts, truth.images, truth.answer, None, truth.system)
        # a column of a table has one type
        if not binary or not naming:
            in_text = IN_TEXT if form != "openai" else IN_TEXT[:5]
            naming = rng.choice([*NAMINGS] if binary and form != "openai" else in_text)
        truths.append(truth)
        rows.append(FORMS[form](truth, [NAMINGS[naming](one, tmp_path) for one in truth.images]))
    file = tmp_path / f"rows.{container}"
    CONTAINERS[container](rows, file)
    found = read(file)
    assert not found.skipped, [row.message for row in found.skipped]
    assert len(found.problems) == ROWS
    for problem, truth in zip(found.problems, truths, strict=True):
        assert_says(problem, truth)


@pytest.mark.skipif(not EXPECTED.exists(), reason=f"{EXPECTED} is absent, set VLM_RL_SHARED")
@pytest.mark.parametrize(
    ("name", "expected"), json.loads(EXPECTED.read_text()).items() if EXPECTED.exists() else []
)
def test_file_of_the_reference(name: str, expected: dict[str, Any]) -> None:
    images = ImageStore()
    found = read(REFERENCE / expected["file"], images)
    assert len(found.problems) == len(expected["problems"])
    if not expected["problems"]:
        assert found.skipped
    for problem, truth in zip(found.problems, expected["problems"], strict=True):
        assert problem.question.replace(IMAGE_MARK, "").removeprefix("Look: ") == truth["question"]
        assert [list(images.size_of(image)) for image in problem.images] == truth["images"]
        golds = [problem.answer, *problem.alternatives]
        listed = truth["answer"] if isinstance(truth["answer"], list) else [truth["answer"]]
        assert golds in (listed, [json.dumps(listed)])
        assert problem.choices == (truth["options"] and tuple(truth["options"]))
        assert problem.system == truth["system"]


PICTURE = draw(random.Random(0), 0).images[0]
ENCODED = base64.b64encode(PICTURE).decode()
URI = f"data:image/png;base64,{ENCODED}"
NAMES: dict[str, object] = {
    "path": "p.png",
    "list": ["p.png"],
    "list of lists": [["p.png"]],
    "json text": '["p.png"]',
    "json object": '{"path": "p.png"}',
    "object": {"path": "p.png"},
    "object with nulls": {"bytes": None, "path": "p.png"},
    "object of lists": {"path": ["p.png"], "bytes": [None]},
    "image_url object": {"image_url": {"url": "p.png"}},
    "typed object": {"type": "image", "image": "p.png"},
    "base64": ENCODED,
    "data uri": URI,
    "object of base64": {"bytes": ENCODED},
    "object of data": {"data": URI},
    "web": "https://example.org/p.png",
    "bucket": "s3://bucket/p.png",
    "archive": "zip://p.png::images.zip",
    "lost": "lost.png",
    "upper case": "P.PNG",
    "without extension": "p",
    "windows": "images\\p.png",
    "spaces": "my picture.png",
    "number": 17,
    "null before it": [None, "p.png"],
}
COLUMNS = (
    *("images", "image", "image_path", "img", "picture", "image_url", "decoded_image", "imgs"),
    *("image_1", "figure", "photo", "screenshot", "diagram_image", "image_file_name", "attachment"),
    *("visual", "file_name", "media", "image_id", "img_b64"),
)


@pytest.mark.parametrize("mark", [IMAGE_MARK, ""], ids=["marked", "unmarked"])
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("name", NAMES)
def test_no_row_is_trained_on_blind(name: str, column: str, mark: str, tmp_path: Path) -> None:
    """Every way of naming a picture gives the picture, or an error that names the row."""
    (tmp_path / "p.png").write_bytes(PICTURE)
    row = {"question": f"{mark}How many bars?", column: NAMES[name], "answer": "3"}
    assert_not_blind(row, tmp_path)


@pytest.mark.parametrize("column", ["images", "question", "answer", "options", "extra", "meta"])
@pytest.mark.parametrize("depth", [100, 600, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"image": ', "}")])
@pytest.mark.parametrize("as_text", [False, True])
def test_nested_row_is_used_or_named(
    column: str, depth: int, opening: str, closing: str, as_text: bool, tmp_path: Path
) -> None:
    nested = opening * depth + "1" + closing * depth
    cell = json.dumps(nested) if as_text else nested
    file = tmp_path / "rows.jsonl"
    good = '{"question": "2 + 2?", "answer": "4", "uid": "%s"}'
    other = {"question": "2 + 3?", "answer": "5"}
    row = ", ".join(f'"{k}": {json.dumps(v)}' for k, v in other.items() if k != column)
    file.write_text(f'{good % "a"}\n{{{row}, "{column}": {cell}}}\n{good % "b"}\n')
    found = read(file)
    assert len(found.problems) + len(found.skipped) == 3
    assert {"a", "b"} <= {problem.uid for problem in found.problems}


PROPERTIES = {
    **{"has_image": True, "is_image_question": False, "num_images": 0, "image_count": 3},
    **{"image_width": 640, "imageSize": [640, 480], "figure_type": "bar", "image_caption": "Bars"},
    **{"context": "a figure", "note": "see fig.", "hint": "[1, 2]", "imagination": "high"},
    **{"media_type": "text", "image": None, "images": [], "image_url": ""},
}


@pytest.mark.parametrize("column", PROPERTIES)
def test_column_about_images_leaves_a_row_of_text_alone(column: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"question": "2 + 2?", column: PROPERTIES[column], "answer": "4"}))
    assert len(read(file).problems) == 1


IN_CHAT: dict[str, object] = {
    "image": {"type": "image", "image": "p.png"},
    "image_url": {"type": "image_url", "image_url": {"url": "p.png"}},
    "image_url text": {"type": "image_url", "image_url": "p.png"},
    "input_image": {"type": "input_image", "image_url": URI},
    "path": {"type": "image", "path": "p.png"},
    "url": {"type": "image", "url": URI},
    "base64": {"type": "image", "base64": ENCODED},
    "anthropic": {"type": "image", "source": {"type": "base64", "data": ENCODED}},
    "no type": {"image": "p.png"},
    "unknown key": {"type": "image", "location": "p.png"},
    "unknown type": {"type": "picture", "image": "p.png"},
    "file": {"type": "file", "file": {"file_name": "p.png"}},
    "video": {"type": "video", "video": "p.mp4"},
    "no name": {"type": "image"},
    "in the text": {"type": "text", "text": "![bars](p.png)"},
    "html": {"type": "text", "text": '<img src="p.png">'},
    "name beside text": {"type": "text", "text": "see", "image": "p.png"},
}


@pytest.mark.parametrize("turns", ["messages", "prompt", "conversations"])
@pytest.mark.parametrize("part", IN_CHAT)
def test_no_chat_is_trained_on_blind(part: str, turns: str, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(PICTURE)
    content = [IN_CHAT[part], {"type": "text", "text": "How many bars?"}]
    assert_not_blind({turns: [{"role": "user", "content": content}], "answer": "3"}, tmp_path)


def assert_not_blind(row: dict[str, Any], folder: Path) -> None:
    file = folder / "rows.jsonl"
    file.write_text(json.dumps(row))
    found = read(file)
    if found.problems:
        [problem] = found.problems
        assert [*map(pixels, problem.images)] == [pixels(PICTURE)]
    else:
        [skipped] = found.skipped
        assert skipped.message.startswith(f"{file}, row 1: ")
