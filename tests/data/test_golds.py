"""Golds of every shape: what a row says, by its answer type, and which sizes its images have."""

import json
import random
from pathlib import Path
from typing import Any

import pandas
import pytest
from PIL import Image

from tests.support.tiny import build_checkpoint, picture, png
from vlm_rl.data.answers import answers_of
from vlm_rl.data.datamodule import DataSource
from vlm_rl.data.images import ImageStore
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.data.rows import SourceRows, read_problems
from vlm_rl.data.tables import BadRow
from vlm_rl.records import ImageSizes, Problem
from vlm_rl.rewards.spaces import converted
from vlm_rl.verification.places import read_boxes, read_points

BOX, OTHER = [10, 20.5, 30, 40], [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("value", "kind", "golds"),
    [
        (BOX, "box", [[BOX]]),
        ([BOX], "box", [[BOX]]),
        ([BOX, OTHER], "box", [[BOX, OTHER]]),
        ([[BOX], [OTHER]], "box", [[BOX], [OTHER]]),
        ([[BOX, OTHER], [OTHER]], "box", [[BOX, OTHER], [OTHER]]),
        (json.dumps(BOX), "box", [[BOX]]),
        ([json.dumps(BOX), json.dumps(OTHER)], "box", [[BOX], [OTHER]]),
        ({"bbox": BOX, "label": None}, "box", [[BOX]]),
        ([{"bbox_2d": BOX, "label": "a"}, {"bbox_2d": OTHER}], "box", [[BOX, OTHER]]),
        ("(10,20.5),(30,40)", "box", [[BOX]]),
        ([5, 6], "point", [[[5, 6]]]),
        ([[5, 6], [7, 8]], "point", [[[5, 6], [7, 8]]]),
        ({"point_2d": [5, 6]}, "point", [[[5, 6]]]),
    ],
)
def test_gold_places_are_read_back(value: Any, kind: str, golds: list[Any]) -> None:
    read = read_boxes if kind == "box" else read_points
    found = [[list(place) for place in read(gold)] for gold in answers_of(value, kind)]
    assert found == golds


@pytest.mark.parametrize(
    ("kind", "golds"),
    [
        ("number", ("10", "20", "30", "40")),
        ("percent", ("10", "20", "30", "40")),
        ("list", ("[10, 20, 30, 40]",)),
        ("interval", ("[10, 20, 30, 40]",)),
        ("box", ("[10, 20, 30, 40]",)),
        (None, ("[10, 20, 30, 40]",)),
    ],
)
def test_answer_type_says_what_four_numbers_are(kind: str | None, golds: tuple[str, ...]) -> None:
    assert answers_of([10, 20, 30, 40], kind) == golds


@pytest.mark.parametrize(
    ("value", "kind", "golds"),
    [
        (
            {"row": 3, "column": "B", "value": 4.5},
            "cell",
            ['{"row": 3, "column": "B", "value": 4.5}'],
        ),
        ([1, {"a": None, "b": [2]}], "json", ['[1, {"b": [2]}]']),
        (['{"a": 1}', '{"a": 2}'], "json", ['{"a": 1}', '{"a": 2}']),
        (r"long \boxed{text}, kept", "free_text", [r"long \boxed{text}, kept"]),
        (r"\d+ <answer>x</answer>", "pattern", [r"\d+ <answer>x</answer>"]),
        (r"so \boxed{4}", None, ["4"]),
    ],
)
def test_other_golds_are_kept_whole(value: Any, kind: str | None, golds: list[str]) -> None:
    assert [*answers_of(value, kind)] == golds


@pytest.mark.parametrize(
    ("value", "kind"),
    [([], "box"), (None, "box"), ([float("nan"), 1], "point"), ({"a": b"x"}, "json"), ("", "cell")],
)
def test_gold_that_is_none_makes_the_row_bad(value: Any, kind: str) -> None:
    with pytest.raises(BadRow):
        answers_of(value, kind)


def read(rows: list[dict[str, Any]], folder: Path, name: str = "d.jsonl", **how: Any) -> SourceRows:
    file = folder / name
    if name.endswith(".parquet"):
        pandas.DataFrame(rows).to_parquet(file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_problems(str(file), ImageStore(), owners={}, **how)


def test_source_and_row_say_type_and_space(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"problem": "Where is the cat?", "answer": BOX},
        {"problem": "And the dog?", "answer": [5, 6], "answer_type": "point"},
        {"problem": "The cow?", "answer": OTHER, "box_space": "relative_1000"},
    ]
    defaults = DataSource("x", answer_type="box", box_space="original").defaults
    a, b, c = read(rows, tmp_path, defaults=defaults).problems
    assert (a.answer_type, a.box_space) == ("box", "original")
    assert (b.answer_type, b.box_space) == ("point", "original")
    assert (c.answer_type, c.box_space) == ("box", "relative_1000")
    assert DataSource("x").defaults == {}


@pytest.mark.parametrize(("column", "value"), [("box_space", "pixels"), ("answer_type", "boxes")])
def test_unknown_space_or_type_makes_the_row_bad(column: str, value: str, tmp_path: Path) -> None:
    [row] = read([{"problem": "Where?", "answer": BOX, column: value}], tmp_path).skipped
    assert f"{column} {value!r} is unknown" in row.message


def test_numbers_of_which_nothing_says_what_they_are_are_counted(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"problem": "a?", "answer": [1, 2]},
        {"problem": "b?", "answer": [[1, 2, 3, 4], [5, 6, 7, 8]]},
        {"problem": "c?", "answer": [5]},
        {"problem": "d?", "answer": ["1", "2"]},
    ]
    lines = read(rows, tmp_path).lines
    assert [line for line in lines if "answer_type" in line] == [
        "2 rows: the answer is a list of numbers, taken as one answer; answer_type, of the row or "
        "of the source, says what it is"
    ]
    assert not read(rows, tmp_path, defaults={"answer_type": "number"}).lines[1:]


@pytest.mark.parametrize("name", ["d.jsonl", "d.parquet"])
def test_object_with_a_key_of_boxes_is_a_box(name: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"problem": "Where?", "answer": {"bbox_2d": BOX, "label": "cat"}},
        {"problem": "Where is it?", "answer": {"bbox_2d": OTHER, "label": None}},
    ]
    problems = read(rows, tmp_path, name).problems
    assert [problem.answer_type for problem in problems] == ["box", "box"]
    assert [read_boxes(problem.answer) for problem in problems] == [(tuple(BOX),), (tuple(OTHER),)]


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_prompt_has_the_sizes_that_the_processor_sees(family: str, tmp_path: Path) -> None:
    """The resized size is that of the grid of the official processor, given the file alone."""
    encoder = PromptEncoder(str(build_checkpoint(family, tmp_path)), max_prompt_tokens=8192)
    official = encoder.processor.image_processor
    rng = random.Random(family)
    for number in range(12):
        size = rng.randint(20, 300), rng.randint(20, 300)
        image = picture(size[1], size[0], seed=number)
        prompt = encoder.encode(Problem(f"p{number}", "<image>?", "1", images=(png(image),)))
        grid = official(images=[image], return_tensors="pt")["image_grid_thw"][0]
        seen = int(grid[2]) * official.patch_size, int(grid[1]) * official.patch_size
        assert prompt.problem.sizes == (ImageSizes(size, seen),)
        assert prompt.images[0].size == seen
        corner = converted([(*map(float, size),)], "original", "resized", prompt.problem.sizes[0])
        assert corner[0] == pytest.approx(seen)


def test_sizes_are_those_of_the_upright_image(tmp_path: Path) -> None:
    encoder = PromptEncoder(str(build_checkpoint("qwen2_5_vl", tmp_path)), max_prompt_tokens=4096)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = png(picture(64, 160), "JPEG", exif=exif)
    prompt = encoder.encode(
        Problem("p", "<image>?", "1", images=(turned, png(picture(48, 64)))[:1])
    )
    [sizes] = prompt.problem.sizes
    assert sizes.original == (64, 160)
    assert sizes.resized == prompt.images[0].size
    assert sizes.resized[0] < sizes.resized[1]
