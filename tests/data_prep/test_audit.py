"""The audit of a data set: each planted defect is reported once, and nothing else is.

Broken on purpose, one at a time, each seen red: images, white space, splits and the other question
in the repeats; 0.5 and 1/2 counted apart; wrong golds among the unread; percentiles one rank off;
small groups in the guessing; pixel limits, patch size and the narrow image; a percent sign as a
unit; a decimal that is not exact; one slot for all answer styles; no escaping; 16-bit greys and
broken pixels in thumbnails; `split` and `seed` without effect; numbers looked for in every type.
"""

import base64
import io
import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_prep.audit import audit, main
from data_prep.audit_page import thumbnail
from data_prep.audit_reading import read_data_set
from data_prep.audit_statistics import distribution, statistics_of, token_statistics
from data_prep.convert import Options, convert
from data_prep.dynamath import DynaMath
from data_prep.mathvision import MathVision
from tests.support.data_prep_helpers import png
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.records import Problem, Verdict
from vlm_rl.rewards.accuracy import Accuracy
from vlm_rl.rewards.gold_forms import FORMS, IN_ITS_SLOT, check_golds
from vlm_rl.verification.gold import Gold

IMAGES = {
    "a.png": png(1, size=(112, 112)),
    "b.png": png(2, size=(56, 84)),
    "c.png": png(3, mode="L", size=(140, 84)),
    "narrow.png": png(4, size=(2, 500)),
}
TRAIN: list[dict[str, Any]] = [
    {"uid": "unit", "problem": "<image>How long?", "answer": "12 cm", "images": ["a.png"]},
    {"uid": "first", "problem": "<image>Find x.", "answer": "5", "images": ["b.png"]},
    {"uid": "again", "problem": "<image> Find  x.", "answer": "5.0", "images": ["b.png"]},
    {"uid": "yes", "problem": "<image>Find y.", "answer": "1/2", "images": ["c.png"]},
    {"uid": "no", "problem": "<image>Find y.", "answer": "2", "images": ["c.png"]},
    {"uid": "other", "problem": "<image>Name z.", "answer": "blue", "images": ["c.png"]},
    {"uid": "unreadable", "problem": "How many?", "answer": "many", "answer_type": "number"},
    {"uid": "digits", "problem": "Which bus?", "answer": "7", "answer_type": "text"},
    {"uid": "letters", "problem": "Which word?", "answer": "A", "choices": ["BDC", "rose"]},
    {"uid": "narrow", "problem": "<image>How thin?", "answer": "3", "images": ["narrow.png"]},
    {"uid": "<b>tag</b>", "problem": "<script>alert(1)</script> & so on", "answer": "4"},
    # the rows that no run would read
    {"uid": "no image", "problem": "<image>What is it?", "answer": "tree"},
    {"uid": "marks", "problem": "<image> and <image>", "answer": "1", "images": ["a.png"]},
    {"uid": "lost", "problem": "<image>Where?", "answer": "1", "images": ["lost.png"]},
    {"uid": "empty", "problem": "What?", "answer": " "},
]
VAL = [{"uid": "leak", "problem": "<image>How long?", "answer": "12 cm", "images": ["a.png"]}]


def write_folder(folder: Path) -> Path:
    folder.mkdir()
    for name, content in IMAGES.items():
        (folder / name).write_bytes(content)
    for split, rows in {"train": TRAIN, "val": VAL}.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("audit") / "flawed")


@pytest.fixture(scope="module")
def audited(folder: Path) -> dict[str, Any]:
    return audit(str(folder))


def statistics_without_page(source: Path) -> dict[str, Any]:
    data = read_data_set(str(source), None, None)
    with closing(Accuracy()) as accuracy:
        forms = check_golds(data.problems, accuracy)
    return statistics_of(data, forms)


def uids(statistics: dict[str, Any], kind: str) -> list[list[str]]:
    return [[one["uid"] for one in group] for group in statistics["repeats"][kind]["examples"]]


def test_every_planted_repeat_is_reported_once(audited: dict[str, Any]) -> None:
    assert audited["problems"] == 12
    assert audited["splits"] == {"train": 11, "val": 1}
    assert uids(audited, "contradictory") == [["yes", "no"]]
    assert uids(audited, "across_splits") == [["unit", "leak"]]
    same = [["unit", "leak"], ["first", "again"], ["yes", "no"]]
    assert uids(audited, "same_question_and_images") == same
    assert audited["repeats"]["same_question_and_images"]["extra"] == 3
    assert uids(audited, "same_image") == [["yes", "no", "other"]]
    assert uids(audited, "same_question_other_images") == []


def test_the_same_question_on_another_image_is_no_contradiction(tmp_path: Path) -> None:
    rows = [
        {"uid": name, "problem": "<image>Find x.", "answer": name, "images": [f"{name}.png"]}
        for name in "12"
    ]
    for name in "12":
        (tmp_path / f"{name}.png").write_bytes(png(int(name)))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    statistics = statistics_without_page(tmp_path)
    assert uids(statistics, "same_question_other_images") == [["1", "2"]]
    assert uids(statistics, "contradictory") == uids(statistics, "same_question_and_images") == []


def test_golds_are_counted_by_what_the_verifier_says(audited: dict[str, Any]) -> None:
    golds = audited["golds"]
    assert [one["uid"] for one in golds["unreadable"]] == ["unreadable"]
    assert golds["not_equal_to_itself"] == []
    forms = golds["forms"]
    assert (forms["as it stands"]["asked"], forms["as it stands"]["right"]) == (12, 11)
    failed = {name: form["failures"] for name, form in forms.items() if form["failures"]}
    assert [one["uid"] for one in failed.pop("as it stands")] == ["unreadable"]
    assert failed == {}
    assert (forms["without its unit"]["asked"], forms["as a fraction"]["asked"]) == (2, 1)


def test_a_gold_that_is_wrong_for_itself_is_told_apart_from_one_unread(folder: Path) -> None:
    failures = [{"verdict": verdict} for verdict in (Verdict.WRONG, Verdict.ERROR)]
    data = read_data_set(str(folder), "val", None)
    golds = statistics_of(data, {"as it stands": {"failures": failures}})["golds"]
    assert [one["verdict"] for one in golds["not_equal_to_itself"]] == ["wrong"]
    assert [one["verdict"] for one in golds["unreadable"]] == ["error"]


def test_skipped_rows_marks_and_types_are_counted(audited: dict[str, Any]) -> None:
    reasons = {r: one["count"] for r, one in audited["skipped"]["by_reason"].items()}
    assert reasons == {"marks and images differ": 2, "no answer": 1, "no image file": 1}
    marks = audited["marks"]
    assert marks["as_many_marks_as_images"] == 8
    assert (marks["marks_without_images"], marks["text_only"]) == (0, 4)
    assert marks["images_per_problem"] == {"1": 8, "0": 4}
    assert [one["uid"] for one in audited["answers"]["words_that_are_numbers"]] == ["digits"]
    given = {(one["given"], one["inferred"]) for one in audited["answers"]["given_and_inferred"]}
    assert {("number", "text"), ("text", "number"), ("(none)", "number_unit")} <= given


def test_images_and_visual_tokens_match_a_count_by_hand(audited: dict[str, Any]) -> None:
    images, tokens = audited["images"], audited["tokens"]
    assert (images["used"], images["different"]) == (8, 4)
    assert (images["formats"], images["modes"]) == ({"PNG": 4}, {"RGB": 3, "L": 1})
    # in tiles of 28 x 28: 4 x 4, 2 x 3 and 5 x 3
    assert tokens["visual_by_image"]["histogram"] == {16: 1, 6: 1, 15: 1}
    assert tokens["visual_by_problem"]["histogram"] == {16: 2, 6: 2, 15: 3}
    assert tokens["too_narrow"] == [{"uid": "narrow", "pixels": "2 x 500"}]
    assert "Qwen2.5-VL are assumed" in tokens["assumption"]


def test_pixel_limits_hold_and_large_problems_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1, size=(1960, 1960)))
    (tmp_path / "b.png").write_bytes(png(1, size=(28, 28)))
    rows = [{"problem": "Which?", "answer": "1", "images": [name]} for name in ("a.png", "b.png")]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = read_data_set(str(tmp_path), None, None)
    tokens = token_statistics(data, None, None, None)
    assert tokens["visual_by_image"]["histogram"] == {4900: 1, 4: 1}
    assert tokens["above"] == {2048: 1, 4096: 1}
    assert (tokens["enlarged_images"], tokens["reduced_images"]) == (1, 0)
    tokens = token_statistics(data, None, 784, 2_000_000)
    assert tokens["visual_by_image"]["histogram"] == {2500: 1, 1: 1}
    assert tokens["above"] == {2048: 1, 4096: 0}
    assert (tokens["enlarged_images"], tokens["reduced_images"]) == (0, 1)


def test_prompt_lengths_with_a_checkpoint_are_those_of_its_prompts(
    data_folder: Path, policy_folder: Path
) -> None:
    source = str(data_folder / "val.jsonl")
    data = read_data_set(source, None, None)
    tokens = token_statistics(data, str(policy_folder), None, 20_000)
    encoder = PromptEncoder(str(policy_folder), max_pixels=20_000)
    prompts = [encoder.encode(problem) for problem in data.problems]
    assert tokens["prompt"] == distribution([len(prompt) for prompt in prompts])
    visual = [int((prompt.token_ids == encoder.image_token_id).sum()) for prompt in prompts]
    assert tokens["visual_by_problem"] == distribution(visual)
    assert tokens["patch_size"] == encoder.resizer.patch_size


def test_every_gold_of_the_synthetic_set_verifies(data_folder: Path) -> None:
    statistics = statistics_without_page(data_folder)
    assert (statistics["problems"], statistics["splits"]) == (40, {"train": 24, "val": 16})
    assert statistics["golds"]["forms"]["as it stands"]["right_frac"] == 1
    assert statistics["golds"]["forms"][IN_ITS_SLOT]["right_frac"] == 1
    assert statistics["repeats"]["across_splits"]["groups"] == 0


def test_the_page_stands_alone_and_what_the_data_say_is_text(
    folder: Path, audited: dict[str, Any]
) -> None:
    page = (folder / "audit.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; so on" in page
    assert "&lt;b&gt;tag&lt;/b&gt;" in page
    assert not re.search(r"(?:src|href)=\"(?!data:)|url\(", page)
    images = re.findall(r"base64,([^\"]+)\"", page)
    assert len(images) > 12
    for image in images:
        Image.open(io.BytesIO(base64.b64decode(image))).verify()
    assert "golds that the verifier cannot read: 1" in page
    stored = json.loads((folder / "audit.json").read_text())
    assert stored["problems"] == audited["problems"]
    mend = [one["text"] for one in stored["findings"] if one["level"] == "mend"]
    assert mend == [
        "rows left out, marks and images differ: 2",
        "rows left out, no answer: 1",
        "rows left out, no image file: 1",
        "golds that the verifier cannot read: 1",
        "problems with an image too narrow to be resized: 1",
        "contradictory problems, with the same question and images but different answers "
        "(groups: 1): 2",
        "problems in more than one split (groups: 1): 2",
    ]


def test_the_same_data_give_the_same_page_and_numbers(
    folder: Path, audited: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "new" / "page.html"
    main([str(folder), "--output", str(page)])
    assert page.read_bytes() == (folder / "audit.html").read_bytes()
    assert page.with_suffix(".json").read_bytes() == (folder / "audit.json").read_bytes()
    said = capsys.readouterr().out.splitlines()
    assert "gold of unreadable: 'many' (number) is error: gold unreadable: not one number" in said
    files = f"look at {page}; all numbers are in {page.with_suffix('.json')}"
    assert said[-1] == f"{audited['problems']} problems audited: {files}"


@pytest.mark.parametrize(
    ("form", "gold", "written"),
    [
        ("in $...$", Gold("5", "number"), "$5$"),
        ("in $...$", Gold("red", "text"), None),
        (r"words in \text{}", Gold("dark red", "text"), r"\text{dark red}"),
        (r"words in \text{}", Gold("(B)", "choice"), r"\text{B}"),
        ("without its unit", Gold(r"5 \text{ cm}", "number_unit"), "5"),
        ("without its unit", Gold("50%", "percent"), "50"),
        ("without its unit", Gold("50%", "number"), None),
        ("without its unit", Gold("5", "number", unit="cm"), None),
        ("with its unit", Gold("5", "number", unit="cm"), "5 cm"),
        ("with its unit", Gold("5 cm", "number_unit"), r"5 \text{ cm}"),
        ("with its unit", Gold(r"5 \text{ cm}", "number_unit"), "5 cm"),
        ("with its unit", Gold(r"140^\circ", "number_unit"), "140°"),
        ("with its unit", Gold("140°", "number_unit"), r"140^{\circ}"),
        ("with its unit", Gold("50%", "percent"), r"50\%"),
        ("as a decimal", Gold(r"\frac{3}{8}", "number"), "0.375"),
        ("as a decimal", Gold("-1 1/2 cm", "number_unit"), "-1.5 cm"),
        ("as a decimal", Gold("1/3", "number"), None),
        ("as a decimal", Gold("7", "number"), None),
        ("as a fraction", Gold("-0.75", "latex"), r"-\frac{3}{4}"),
        ("as a fraction", Gold(r"\frac{3}{4}", "latex"), None),
        ("by letter", Gold("two", "choice", ("one", "two")), "B"),
        ("by letter, (B)", Gold("B", "choice"), "(B)"),
        ("by letter", Gold("A, C", "choice", ("1", "2", "3")), None),
        ("by value", Gold("B", "choice", ("one", "two")), "two"),
        ("by value", Gold("B", "choice"), None),
        ("by both, B. value", Gold("two", "choice", ("one", "two")), "B. two"),
    ],
)
def test_forms_write_golds_as_models_do(form: str, gold: Gold, written: str | None) -> None:
    assert FORMS[form](gold) == written


def test_each_answer_style_has_its_own_slot() -> None:
    styles = ["box", "tag", "answer_line", None]
    problems = [
        Problem(f"p{n}", "How many?", r"\frac{1}{2}", answer_style=style)
        for n, style in enumerate(styles)
    ]
    with closing(Accuracy()) as accuracy:
        forms = check_golds(problems, accuracy)
    assert (forms[IN_ITS_SLOT]["asked"], forms[IN_ITS_SLOT]["failures"]) == (4, [])


def test_guessing_is_the_share_of_the_most_frequent_answer(tmp_path: Path) -> None:
    answers = ["0.5", "1/2", r"\frac{1}{2}"] * 5 + ["7"] * 5 + ["red", "red", "blue"]
    rows = [
        {"problem": f"Question {n}?", "answer": answer, "task": "colour" if n > 19 else "sum"}
        for n, answer in enumerate(answers)
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    guessing = statistics_without_page(tmp_path)["guessing"]
    assert guessing["by_type"] == {"problems": 23, "share": 17 / 23}
    assert guessing["by_task_and_type"] == {"problems": 20, "share": 0.75}
    assert guessing["types"]["number"]["majority_answer"] == "0.5"
    assert guessing["random_choice"] is None


def test_text_alone_and_images_that_cannot_be_resized_have_pages_too(
    tmp_path: Path, policy_folder: Path
) -> None:
    (tmp_path / "thin.png").write_bytes(png(1, size=(1, 300)))
    thin = {"problem": "How thin?", "answer": "1", "images": ["thin.png"]}
    text = {"problem": "How many?", "answer": "7"}
    for name, row, model in (("thin", thin, None), ("text", text, str(policy_folder))):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row))
        tokens = audit(str(tmp_path / f"{name}.jsonl"), model)["tokens"]
        assert tokens["visual_by_problem"] is None
        assert (tmp_path / f"{name}.audit.json").is_file()
    page = (tmp_path / "text.audit.html").read_text()
    assert 'alt="tokens of a prompt"' in page
    assert 'alt="sizes of different images; dashed: pixel limits"' not in page


def test_percentiles_are_nearest_ranks() -> None:
    spread = distribution([10 * n for n in range(1, 41)])
    assert spread is not None
    assert (spread["p5"], spread["p50"], spread["p95"]) == (20, 200, 380)
    assert (spread["min"], spread["mean"], spread["max"]) == (10, 205, 400)
    assert distribution([]) is None


def test_an_image_whose_pixels_are_broken_is_named_in_its_place(tmp_path: Path) -> None:
    target = io.BytesIO()
    Image.effect_noise((200, 200), 90).save(target, "JPEG")
    cut = target.getvalue()[:2000]
    assert "cannot be shown" in thumbnail(cut)
    grey = Image.new("I;16", (10, 10), 30000)
    grey.save(tmp_path / "grey.png")
    shown = re.findall(r"base64,([^\"]+)\"", thumbnail(tmp_path / "grey.png"))
    pixel = Image.open(io.BytesIO(base64.b64decode(shown[0]))).getpixel((5, 5))
    assert pixel == pytest.approx((117, 117, 117), abs=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere/x.jsonl"], "no data file /nowhere/x.jsonl"),
        (["{folder}", "--split", "test"], "has the splits train, val; got split=test"),
        (["{folder}", "--output", "page.png"], "--output must name an .html file, got page.png"),
        (["{folder}", "--max_pixels", "100"], "min_pixels=3136 is above max_pixels=100"),
        (["{folder}", "--max_pixels", "0"], "max_pixels=0 must be above 0"),
        (["{empty}"], "no problem can be read, 1 rows left out; the first: "),
    ],
)
def test_bad_input_is_one_line(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "x.jsonl").write_text('{"problem": "What?", "answer": ""}\n')
    names = {"folder": folder, "empty": tmp_path / "x.jsonl"}
    with pytest.raises(SystemExit) as ended:
        main([argument.format(**names) for argument in arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert message in said[0]


@pytest.mark.parametrize(
    ("converter", "name", "split"),
    [(MathVision(), "mathvision", "testmini"), (DynaMath(), "dynamath", "trial1")],
)
def test_real_sets_have_golds_that_verify(
    shared: Path, tmp_path: Path, converter: Any, name: str, split: str
) -> None:
    source = shared / "data" / name
    if not source.is_dir():
        pytest.skip(f"{source} is absent; the audit of real data is not tested")
    convert(converter, Options(str(source), split, tmp_path / "set", limit=24))
    statistics = statistics_without_page(tmp_path / "set")
    assert (statistics["problems"], statistics["images"]["used"]) == (24, 24)
    assert statistics["golds"]["forms"]["as it stands"]["right_frac"] == 1
    assert statistics["golds"]["forms"][IN_ITS_SLOT]["right_frac"] == 1
    assert statistics["repeats"]["contradictory"]["groups"] == 0
    assert statistics["skipped"]["count"] == 0
