"""Reading: every form a data set comes in, and one clear line for every row that is not a problem.

Mutations that must go red: cut `_TAG` or `boxes` (worked solutions), drop the surrogate check, read
`ground_truth` before `answer`, map optional columns of foreign sets, skip `image.verify()`.
"""

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from tests.support.places import TINY_POLICY
from tests.support.tiny import png, png_header
from vlm_rl.data.images import ImageStore
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.data.rows import SourceRows, read_problems

PHOTO = png(Image.effect_noise((40, 30), 60).convert("RGB"))
GOOD = {"problem": "<image>How many?", "answer": "3", "images": ["ok.png"]}


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    (path.parent / "ok.png").write_bytes(PHOTO)
    lines = (row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows)
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def read(path: Path | str, **options: Any) -> SourceRows:
    return read_problems(str(path), ImageStore(), owners={}, **options)


def assert_one_line(rows: SourceRows, reason: str, *texts: str, row: int = 2) -> None:
    """Check that one row is left out, in one line that names its place and what is wrong."""
    assert [skipped.reason for skipped in rows.skipped] == [reason]
    message = rows.skipped[0].message
    assert f"row {row}: " in message
    assert "\n" not in message
    for text in texts:
        assert text in message


BAD_ROWS = {
    "cut_json": (b'{"problem": "How', "bad json", "JSON"),
    "not_utf8": (b'{"problem": "\xff\xfe", "answer": "3"}', "bad json", "utf-8"),
    "not_an_object": (["How many?", "3"], "not an object", "list"),
    "misspelt_column": (
        {**GOOD, "anwser_type": "number"},
        "unknown column",
        "did you mean answer_type?",
    ),
    "no_question": ({"answer": "3"}, "no question", "problem is missing"),
    "blank_question": ({**GOOD, "problem": "  \n"}, "no question", "empty"),
    "no_answer": ({"problem": "How many?"}, "no answer", "answer is missing"),
    "empty_answer": ({**GOOD, "answer": ""}, "no answer", "empty"),
    "empty_answer_tag": ({**GOOD, "answer": "<answer> </answer>"}, "no answer", "empty"),
    "question_is_a_number": ({**GOOD, "problem": 7}, "wrong type", "int"),
    "answer_is_an_object": ({**GOOD, "answer": {"a": 1}}, "wrong type", "dict"),
    "answer_is_true": ({**GOOD, "answer": True}, "wrong type", "bool"),
    "answer_is_nan": ({**GOOD, "answer": float("nan")}, "wrong type", "float"),
    "list_that_is_no_chat": ({**GOOD, "problem": ["How", "many?"]}, "wrong type", "chat"),
    "choices_are_text": ({**GOOD, "choices": "A,B"}, "wrong type", "choices", "list"),
    "tolerance_is_text": ({**GOOD, "tolerance": {"abs": "a bit"}}, "wrong type", "tolerance"),
    "meta_is_broken_json": ({**GOOD, "meta": "{"}, "bad json", "JSON"),
    "unknown_answer_type": (
        {**GOOD, "answer_type": "nubmer"},
        "wrong value",
        "did you mean number?",
    ),
    "unknown_answer_style": ({**GOOD, "answer_style": "boxx"}, "wrong value", "did you mean box?"),
    "lone_surrogate": ({**GOOD, "problem": "<image>\ud800"}, "wrong value", "surrogate"),
    "lone_surrogate_in_uid": ({**GOOD, "uid": "\ud800"}, "wrong value", "uid holds half"),
    **{
        f"lone_surrogate_in_{name}_{number}": (
            {**GOOD, name: value},
            "wrong value",
            f"{name} holds",
        )
        for number, value in enumerate(("\ud800", ["a", "\ud800"], {"a": [{"\ud800": 1}]}))
        for name in ("answer", "choices", "images", "meta", "tolerance", "answer_type")
    },
    "surrogate_in_json_of_meta": (
        {**GOOD, "meta": '{"a": "\\ud800"}'},
        "wrong value",
        "meta holds",
    ),
    "same_content_again": (GOOD, "duplicate uid", "row 1"),
    "question_of_a_megabyte": (
        {**GOOD, "problem": "<image>" + "a" * 10**6},
        "text too long",
        "problem has 1000007 characters, above max_text_chars=65536",
    ),
    "long_answer": ({**GOOD, "answer": "1" * 70_000}, "text too long", "answer has 70000"),
    "long_uid": ({**GOOD, "uid": "u" * 70_000}, "text too long", "uid has 70000"),
    "many_choices": ({**GOOD, "choices": ["ab"] * 40_000}, "text too long", "choices has 80000"),
    "long_key_in_meta": ({**GOOD, "meta": {"k" * 70_000: 1}}, "text too long", "meta has 70000"),
    "long_chat": (
        {**GOOD, "problem": [{"role": "user", "content": "a" * 70_000}]},
        "text too long",
        "problem has 70015",
    ),
}


@pytest.mark.parametrize(
    ("row", "reason", "texts"), [(r, n, t) for r, n, *t in BAD_ROWS.values()], ids=BAD_ROWS
)
def test_a_bad_row_gets_its_one_line(tmp_path: Path, row: Any, reason: str, texts: list[str]):
    last = {"problem": "And now?", "answer": 4}
    source = read(write_jsonl(tmp_path / "train.jsonl", [GOOD, row, last]))
    assert_one_line(source, reason, str(tmp_path / "train.jsonl"), *texts)
    assert [problem.answer for problem in source.problems] == ["3", "4"]


def test_text_at_the_limit_passes_and_one_character_more_does_not(tmp_path: Path):
    rows = [{"problem": "12345", "answer": "1"}, {"problem": "123456", "answer": "1"}]
    source = read(write_jsonl(tmp_path / "t.jsonl", rows), max_text_chars=5)
    assert [problem.question for problem in source.problems] == ["12345"]
    assert_one_line(source, "text too long", "above max_text_chars=5")


@pytest.mark.parametrize("row", [{**GOOD, "x" * 10**5: 1}, {**GOOD, "images": ["x" * 10**5]}])
def test_long_value_makes_no_long_line(tmp_path: Path, row: Any):
    [skipped] = read(write_jsonl(tmp_path / "t.jsonl", [GOOD, row])).skipped
    assert len(skipped.message) < 800


BAD_IMAGES = {
    "missing_file": (None, "no image file", "No such file"),
    "folder": (Path.mkdir, "no image file", "not a regular file"),
    "pipe": (os.mkfifo, "no image file", "not a regular file"),
    "device": (lambda link: link.symlink_to("/dev/zero"), "no image file", "not a regular file"),
    "empty_file": (b"", "broken image", "unknown format"),
    "web_page": (b"<html>404 Not Found</html>", "broken image", "unknown format"),
    "truncated_png": (PHOTO[: len(PHOTO) // 2], "broken image", "bad.png"),
    "png_cut_in_its_header": (PHOTO[:20], "broken image", "bad.png"),
    "flipped_bit": (PHOTO[:60] + b"\x00\xff" + PHOTO[62:], "broken image", "bad.png"),
    "jpeg_cut_in_its_header": (
        png(Image.new("RGB", (9, 9)), "JPEG")[:30],
        "broken image",
        "bad.png",
    ),
    "decompression_bomb": (png_header(100_000, 100_000), "broken image", "exceeds limit"),
}


@pytest.mark.parametrize(("content", "reason", "word"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_a_bad_image_file_gets_its_one_line(tmp_path: Path, content: Any, reason: str, word: str):
    if callable(content):
        content(tmp_path / "bad.png")
    elif content is not None:
        (tmp_path / "bad.png").write_bytes(content)
    row = {**GOOD, "images": ["bad.png"]}
    assert_one_line(read(write_jsonl(tmp_path / "t.jsonl", [GOOD, row])), reason, "bad.png", word)


BAD_LISTS = {
    "number": ("<image>?", [7], "wrong type", "int"),
    "empty_struct": ("<image>?", [{"bytes": None, "path": None}], "wrong type", "NoneType"),
    "null_in_path": ("<image>?", ["a\0b.png"], "no image file", "null"),
    "two_marks_one_image": ("<image><image>?", ["ok.png"], "marks and images differ", "2 <image>"),
    "one_mark_two_images": ("<image>?", ["ok.png"] * 2, "marks and images differ", "1 <image>"),
}


@pytest.mark.parametrize(("problem", "images", "reason", "word"), BAD_LISTS.values(), ids=BAD_LISTS)
def test_a_bad_image_list_gets_its_one_line(
    tmp_path: Path, problem: str, images: list[Any], reason: str, word: str
):
    row = {"problem": problem, "answer": "1", "images": images}
    assert_one_line(read(write_jsonl(tmp_path / "t.jsonl", [GOOD, row])), reason, word)


def test_broken_bytes_in_parquet_get_their_one_line(tmp_path: Path):
    rows = [
        {"problem": f"q{i}", "answer": "1", "images": [{"bytes": content, "path": "x.png"}]}
        for i, content in enumerate([PHOTO, PHOTO[:50]])
    ]
    source = read(write_parquet(tmp_path / "t.parquet", rows))
    assert_one_line(source, "broken image", "t.parquet, row 2", "50 bytes")


def test_all_columns_of_our_own_format_are_read(tmp_path: Path):
    row = {
        **GOOD,
        "uid": 17,
        "answer_type": "number_unit",
        "choices": ["2 cm", "3 cm"],
        "unit": "cm",
        "tolerance": {"abs": 0.1},
        "answer_style": "box",
        "source": "mine",
        "task": "count",
        "split": "train",
        "meta": {"level": 2},
    }
    for path in (
        write_jsonl(tmp_path / "t.jsonl", [row]),
        write_parquet(tmp_path / "t.parquet", [row | {"uid": "17"}]),
    ):
        problem = read(path).problems[0]
        assert problem.uid == "17"
        assert problem.images == (tmp_path / "ok.png",)
        assert problem.choices == ("2 cm", "3 cm")
        assert problem.tolerance == {"abs": 0.1}
        assert problem.meta == {"level": 2}
        fields = ("question", "answer", "answer_type", "unit", "answer_style", "source", "task")
        assert [getattr(problem, name) for name in fields] == [
            "<image>How many?",
            "3",
            "number_unit",
            "cm",
            "box",
            "mine",
            "count",
        ]


def test_a_mark_without_images_is_text_and_images_without_marks_are_kept(tmp_path: Path):
    rows = [
        {"problem": "What does <image> mean in HTML?", "answer": "a"},
        {"problem": "How many?", "answer": "b", "images": ["ok.png", "ok.png"]},
    ]
    plain, unmarked = read(write_jsonl(tmp_path / "t.jsonl", rows)).problems
    assert plain.question == "What does <image> mean in HTML?"
    assert (unmarked.question, len(unmarked.images)) == ("How many?", 2)


def test_uid_is_a_hash_of_content_wherever_the_image_lies(tmp_path: Path):
    by_path = read(write_jsonl(tmp_path / "a.jsonl", [GOOD])).problems[0].uid
    in_row = [{**GOOD, "images": [{"bytes": PHOTO, "path": None}]}]
    assert read(write_parquet(tmp_path / "b.parquet", in_row)).problems[0].uid == by_path
    for change in ({"problem": "<image>How few?"}, {"answer": "4"}, {"images": ["other.png"]}):
        (tmp_path / "other.png").write_bytes(png(Image.new("RGB", (8, 8))))
        other = read(write_jsonl(tmp_path / "c.jsonl", [GOOD | change])).problems[0].uid
        assert other != by_path
    # printf 'How many?\0003' | sha256sum: the same in every process and version
    text = read(write_jsonl(tmp_path / "d.jsonl", [{"problem": "How many?", "answer": "3"}]))
    assert text.problems[0].uid == "e6acd46b663c08e2"


def test_equal_image_bytes_are_kept_once(tmp_path: Path):
    rows = [{"problem": f"q{i}", "answer": "1", "images": [{"bytes": PHOTO}]} for i in range(3)]
    images = [p.images[0] for p in read(write_parquet(tmp_path / "t.parquet", rows)).problems]
    assert images[0] is images[1] is images[2]


@pytest.mark.parametrize(
    ("columns", "image", "answer", "shown"),
    [
        (("problem", "images", "answer"), 1, "3", "problem, images, answer; ignored: nothing"),
        (("question", "image", "answer"), 0, r"\boxed{3}", "problem <- question, images <- image"),
        (
            ("prompt", "image", "solution"),
            0,
            "<think>2?</think><answer> 3 </answer>",
            "problem <- prompt, images <- image, answer <- solution",
        ),
        (
            ("query", "decoded_image", "ground_truth"),
            0,
            "3",
            "problem <- query, images <- decoded_image, answer <- ground_truth",
        ),
        (("problem", "image", "solution"), 0, r"so \boxed{2} no, \boxed{3}", "answer <- solution"),
    ],
)
def test_columns_of_peers_are_found_and_shown(
    tmp_path: Path, columns: tuple[str, str, str], image: int, answer: str, shown: str
):
    feature = datasets.List(datasets.Image()) if image else datasets.Image()
    types = (datasets.Value("string"), feature, datasets.Value("string"))
    picture = Image.open(io.BytesIO(PHOTO))
    row = dict(zip(columns, ("How many?", [picture] if image else picture, answer), strict=True))
    saved = datasets.Dataset.from_list([row], datasets.Features(zip(columns, types, strict=True)))
    saved.save_to_disk(tmp_path / "saved")
    source = read(tmp_path / "saved")
    assert shown in source.mapping
    assert "\n" not in source.mapping
    assert source.problems[0].answer == "3"
    assert isinstance(source.problems[0].images[0], bytes)


def test_geometry3k_answer_wins_over_its_letter_and_choices_stay_out(tmp_path: Path):
    row = {
        "id": 5,
        "images": [{"bytes": PHOTO, "path": None}],
        "problem": "<image>Find x.",
        "answer": r"2 \sqrt { 221 }",
        "choices": ["1", "2"],
        "ground_truth": "C",
    }
    path = write_parquet(tmp_path / "t.parquet", [row])
    source = read(path)
    assert source.problems[0].answer == r"2 \sqrt { 221 }"
    assert source.problems[0].choices is None
    assert "ignored: id, choices, ground_truth" in source.mapping
    mapped = read(path, columns={"choices": "choices", "answer": "ground_truth", "uid": "id"})
    assert mapped.problems[0].answer == "C"
    assert mapped.problems[0].choices == ("1", "2")
    assert mapped.problems[0].uid == "5"


def test_verl_nested_row_is_read(tmp_path: Path):
    row = {
        "data_source": "geo3k",
        "ability": "math",
        "extra_info": {"index": 3},
        "prompt": [
            {"role": "system", "content": "Be good."},
            {"role": "user", "content": "<image>Find x."},
        ],
        "images": [{"bytes": PHOTO, "path": "a.png"}],
        "reward_model": {"ground_truth": "140°", "style": "rule"},
    }
    problem = read(write_parquet(tmp_path / "t.parquet", [row])).problems[0]
    assert (problem.question, problem.answer) == ("<image>Find x.", "140°")
    assert problem.images == (PHOTO,)


def test_chats_of_both_spellings_are_read(tmp_path: Path):
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Find x."}]},
        {"role": "assistant", "content": "<answer>7</answer>"},
    ]
    conversations = [
        {"from": "human", "value": "<image>Find y."},
        {"from": "gpt", "value": "So \\boxed{8}."},
    ]
    for name, chat, expected in (
        ("messages", messages, ("<image>Find x.", "7")),
        ("conversations", conversations, ("<image>Find y.", "8")),
    ):
        rows = write_jsonl(tmp_path / "t.jsonl", [{name: chat, "image": "ok.png"}])
        problem = read(rows).problems[0]
        assert (problem.question, problem.answer) == expected
    two = [*conversations, {"from": "human", "value": "And z?"}]
    rows = write_jsonl(tmp_path / "t.jsonl", [{"conversations": two, "image": "ok.png"}])
    assert_one_line(read(rows), "wrong value", "2 user turns", row=1)


def test_explicit_columns_win_and_reach_into_structs(tmp_path: Path):
    row = {"question": "q", "answer": "wrong", "label": {"gold": 2.5}}
    path = write_parquet(tmp_path / "t.parquet", [row])
    assert read(path, columns={"answer": "label.gold"}).problems[0].answer == "2.5"


def test_splits_are_chosen_and_never_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    parts = {
        name: datasets.Dataset.from_list([{"problem": name, "answer": "1"}])
        for name in ("train", "test")
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    for name, part in parts.items():
        (tmp_path / "files").mkdir(exist_ok=True)
        part.to_parquet(tmp_path / "files" / f"{name}-00000-of-00001.parquet")
    rows = [{"problem": name, "answer": "1", "split": name} for name in parts]
    for path in (tmp_path / "saved", tmp_path / "files", write_jsonl(tmp_path / "t.jsonl", rows)):
        assert [p.question for p in read(path, split="test").problems] == ["test"]
    for folder in ("saved", "files"):
        with pytest.raises(ValueError, match="has the splits train, test; got split=None"):
            read(tmp_path / folder)


def test_limit_counts_good_problems(tmp_path: Path):
    rows = [{"problem": f"q{i}", "answer": "" if i % 2 else "1"} for i in range(9)]
    source = read(write_jsonl(tmp_path / "t.jsonl", rows), limit=3)
    assert [problem.question for problem in source.problems] == ["q0", "q2", "q4"]


def test_a_source_that_cannot_be_read_names_the_way_out(tmp_path: Path):
    rows = write_jsonl(tmp_path / "t.jsonl", [{"problem": "q", "label": "1"}])
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    for path, options, message in (
        (tmp_path / "absent.jsonl", {}, "no data file"),
        (tmp_path / "broken.parquet", {}, "cannot be read"),
        ("data.txt", {}, "owner/name"),
        ("nobody/nothing-here:train", {}, "on the hub"),
        (rows, {}, r"no column for answer .* there are problem, label; name it with `columns`"),
        (rows, {"columns": {"answer": "lable"}}, "no column 'lable' for answer"),
        (rows, {"columns": {"answer": "label"}, "split": "test"}, "no column 'split' for split"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            read(path, **options)
        assert "\n" not in str(error.value)


def from_dynamath(row: dict[str, Any]) -> dict[str, Any]:
    return {"problem": row["question"], "answer": row["answer"], "images": [row["image"]]}


def from_mathvision(row: dict[str, Any]) -> dict[str, Any]:
    """One merged image stands for all numbered marks."""
    question = re.sub(r"<image\d+>", "<image>", row["question"], count=1)
    return {
        "uid": row["id"],
        "problem": re.sub(r"<image\d+>", "", question),
        "images": [row["image"]],
        "answer": row["answer"],
        "choices": row["options"] or None,
        "task": row["subject"],
    }


@pytest.mark.parametrize("name", ["dynamath", "mathvision"])
def test_real_benchmarks_are_read_and_encoded(shared: Path, tmp_path: Path, name: str):
    if name == "dynamath":
        folder = shared / "data" / name / "trial1"
        rows = [
            from_dynamath(row) for row in json.loads((folder / "dataset.json").read_text()).values()
        ]
    else:
        folder = shared / "data" / name
        lines = (folder / "testmini.jsonl").read_text().splitlines()
        rows = [from_mathvision(json.loads(line)) for line in lines]
    for row in rows:
        row["images"] = [str(folder / image) for image in row["images"]]
    path = tmp_path / "real.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = read(path)
    assert source.skipped == []
    assert len(source.problems) == {"dynamath": 63, "mathvision": 304}[name]
    encoder = PromptEncoder(str(TINY_POLICY), max_prompt_tokens=4096, max_pixels=100 * 100)
    for problem in source.problems[::10]:
        prompt = encoder.encode(problem)
        assert len(prompt) == encoder.count_tokens(problem)
        assert len(prompt.images) == 1
