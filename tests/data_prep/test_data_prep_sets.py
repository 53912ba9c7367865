"""Each set's script on a few rows in the published schema of the set.

Broken on purpose, one at a time, each seen red (what all sets share: see test_data_prep.py): the
repeats of a benchmark taken out, ids not compared, contradicted rows kept, white space compared;
the letter of geometry3k read; drawn options, the mark and the glued unit of MathVision; tolerance
and points of DynaMath.
"""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Features, List, Value

from data_prep.clevr import Clevr
from data_prep.competition_math import CompetitionMath
from data_prep.dapo_math import DapoMath
from data_prep.dynamath import DynaMath
from data_prep.geometry3k import Geometry3K, Geometry3KChoices
from data_prep.geoqa import GeoQA
from data_prep.mathvision import MathVision
from data_prep.mmk12 import MMK12
from data_prep.open_r1 import OpenR1
from data_prep.virl39k import ViRL39K
from tests.support.data_prep_helpers import (
    BLUE,
    IMAGE,
    INT,
    RED,
    STRING,
    converted,
    drops,
    golds,
    parquet,
    png,
)
from vlm_rl.records import Problem

GEOMETRY = {"images": List(IMAGE), "problem": STRING, "answer": STRING}


def test_geometry3k_reads_the_value_and_not_the_letter_beside_it(tmp_path: Path) -> None:
    newer = GEOMETRY | {"id": INT, "choices": List(STRING), "ground_truth": STRING}
    options = ["1", r"2 \sqrt { 221 }", "3", "4"]
    rows = [
        {"images": [RED], "problem": "<image>Find x.", "answer": r"2 \sqrt { 221 }"},
        {"images": [BLUE], "problem": "<image>Find y.", "answer": "20"},
        {"images": [BLUE], "problem": "<image>Find z.", "answer": " "},
    ]
    rows = [row | {"id": n, "choices": options, "ground_truth": "B"} for n, row in enumerate(rows)]
    rows[2]["choices"] = ["1", ""]
    source = parquet(tmp_path / "train.parquet", newer, rows)
    entry, problems = converted(Geometry3K(), source, tmp_path / "free")
    assert golds(problems) == [("<image>Find x.", r"2 \sqrt{221}"), ("<image>Find y.", "20")]
    assert [problem.choices for problem in problems] == [None, None]
    assert [problem.uid for problem in problems] == ["geometry3k-train-0", "geometry3k-train-1"]
    assert drops(entry) == {"empty answer": 1}
    assert entry["dropped"]["empty answer"]["examples"] == ["2"]
    entry, problems = converted(Geometry3KChoices(), source, tmp_path / "choices")
    assert drops(entry) == {"empty choice": 1}
    assert {(p.answer, p.answer_type) for p in problems} == {("B", "choice")}
    assert problems[0].choices == ("1", r"2 \sqrt{221}", "3", "4")


def test_geometry3k_of_the_older_revision_has_no_choices_to_ask_for(tmp_path: Path) -> None:
    rows = [{"images": [RED], "problem": "<image>Find x.", "answer": "20"}]
    source = parquet(tmp_path / "train.parquet", GEOMETRY, rows)
    _, problems = converted(Geometry3K(), source, tmp_path / "out")
    assert golds(problems) == [("<image>Find x.", "20")]
    with pytest.raises(ValueError, match=r"no column 'choices'.*there are images problem answer"):
        converted(Geometry3KChoices(), source, tmp_path / "choices")


def test_geoqa_answers_lose_tag_and_unicode(tmp_path: Path) -> None:
    features = {"image": IMAGE, "problem": STRING, "solution": STRING}
    answers = ["<answer> 140° </answer>", "<answer>2√3</answer>", "<answer> </answer>", "140"]
    rows = [
        {"image": RED, "problem": f"Angle {n}?", "solution": text} for n, text in enumerate(answers)
    ]
    entry, problems = converted(
        GeoQA(), parquet(tmp_path / "r1v.parquet", features, rows), tmp_path / "r1v"
    )
    assert golds(problems) == [
        ("<image>Angle 0?", r"140^\circ"),
        ("<image>Angle 1?", r"2\sqrt{3}"),
    ]
    assert drops(entry) == {"empty answer": 1, "no <answer> in the solution": 1}
    assert entry["marks_added"] == 2
    rows = [{"images": [RED], "problem": "<image>Angle?", "answer": "140°"}]
    source = parquet(tmp_path / "easy.parquet", GEOMETRY, rows)
    _, problems = converted(GeoQA(), source, tmp_path / "easy")
    assert golds(problems) == [("<image>Angle?", r"140^\circ")]


def test_clevr_is_read_in_both_forms(tmp_path: Path) -> None:
    question = "How many items are there in the image?"
    features = {"image": IMAGE, "problem": STRING, "solution": STRING}
    rows = [
        {"image": image, "problem": question, "solution": f"<answer> {n} </answer>"}
        for n, image in ((3, RED), (4, BLUE), (5, BLUE), (3, RED))
    ]
    entry, problems = converted(
        Clevr(), parquet(tmp_path / "r1v.parquet", features, rows), tmp_path / "r1v"
    )
    assert golds(problems) == [(f"<image>{question}", "3")]
    assert {p.answer_type for p in problems} == {"number"}
    assert drops(entry) == {"contradictory answers": 2, "duplicate question": 1}
    assert [path.name for path in (tmp_path / "r1v" / "images").iterdir()] == [
        Path(problems[0].images[0]).name  # type: ignore[arg-type]
    ]
    rows = [{"images": [RED], "problem": question, "answer": "3"}]
    source = parquet(tmp_path / "count.parquet", GEOMETRY, rows)
    assert golds(converted(Clevr(), source, tmp_path / "count")[1])[0][1] == "3"


def test_mmk12_rows_without_an_image_or_with_too_many_marks(tmp_path: Path) -> None:
    features = {
        "id": STRING,
        "question": STRING,
        "answer": STRING,
        "subject": STRING,
        "image": IMAGE,
    }
    rows = [
        {"id": "a", "question": "<image>Angle?", "answer": "$60°$", "image": RED},
        {"id": "b", "question": "Half of 14?", "answer": "7", "image": None},
        {"id": "c", "question": "<image><image> Which?", "answer": "A", "image": RED},
        {"id": "d", "question": "<image>What now?", "answer": "5", "image": None},
        {"id": "a", "question": "Another?", "answer": "5", "image": BLUE},
    ]
    rows = [row | {"subject": "math"} for row in rows]
    entry, problems = converted(
        MMK12(), parquet(tmp_path / "train.parquet", features, rows), tmp_path / "out"
    )
    assert golds(problems) == [("<image>Angle?", r"60^\circ"), ("Half of 14?", "7")]
    assert entry["text_only"] == 1
    assert drops(entry) == {"more image marks than images": 2, "duplicate id": 1}
    assert entry["dropped"]["more image marks than images"]["examples"] == ["c", "d"]


def test_open_r1_keeps_only_the_answer_of_the_solution(tmp_path: Path) -> None:
    names = ("problem", "solution", "original_question", "original_answer")
    features = {"image": IMAGE} | dict.fromkeys(names, STRING)
    worked = "<think>Is it A? No.</think>\n\n<answer>B</answer>"
    row = {"image": RED, "problem": "Which? A. 1 B. 2", "solution": worked}
    rows = [
        row | {"original_question": "Which?", "original_answer": "B"},
        row | {"problem": "And now?", "solution": r"<answer>The answer is \boxed{5}</answer>"},
        row | {"problem": "Cut?", "solution": "<think>so"},
    ]
    entry, problems = converted(
        OpenR1(), parquet(tmp_path / "train.parquet", features, rows), tmp_path / "out"
    )
    assert golds(problems) == [("<image>Which? A. 1 B. 2", "B"), ("<image>And now?", "5")]
    assert drops(entry) == {"no <answer> in the solution": 1}


def test_dapo_math_is_unwrapped_and_each_question_kept_once(tmp_path: Path) -> None:
    features = {
        "data_source": STRING,
        "prompt": List({"content": STRING, "role": STRING}),
        "ability": STRING,
        "reward_model": {"ground_truth": STRING, "style": STRING},
        "extra_info": {"index": STRING},
    }
    wrapped = (
        "Solve the following math problem step by step. The last line of your response should be "
        "of the form Answer: $Answer (without quotes) where $Answer is the answer to the problem."
        '\n\n{}\n\nRemember to put your answer on its own line after "Answer:".'
    )
    asked = [("i", "What is 2+3?", "5"), ("j", "What is 2-3?", "-1"), ("i", "What is 2+3?", "5")]
    asked += [("k", "What  is 2+3?", "5"), ("j", "What is 4?", "4")]
    asked += [("x", "Best?", "34"), ("y", "Best?", "35"), ("z", "Best?", "34")]
    rows = [
        {
            "data_source": "math_dapo",
            "prompt": [{"content": wrapped.format(question), "role": "user"}],
            "ability": "MATH",
            "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": index},
        }
        for index, question, answer in asked
    ]
    entry, problems = converted(
        DapoMath(), parquet(tmp_path / "train.parquet", features, rows), tmp_path / "out"
    )
    assert golds(problems) == [("What is 2+3?", "5"), ("What is 2-3?", "-1")]
    assert drops(entry) == {
        "contradictory answers": 3,
        "duplicate question": 2,
        "duplicate id": 1,
    }
    assert entry["text_only"] == 2


def test_competition_math_answer_is_the_last_box(tmp_path: Path) -> None:
    features = dict.fromkeys(("problem", "level", "type", "solution"), STRING)
    row = {"level": "Level 5", "type": "Algebra"}
    rows = [
        row | {"problem": "Half?", "solution": r"$\boxed{9}$? No, $\boxed{\frac{1}{2}}$."},
        row | {"problem": "Nothing?", "solution": "It is 5."},
    ]
    source = parquet(tmp_path / "train.parquet", features, rows)
    entry, problems = converted(CompetitionMath(), source, tmp_path / "out")
    assert golds(problems) == [("Half?", r"\frac{1}{2}")]
    assert problems[0].task == "Algebra"
    assert drops(entry) == {"no boxed answer in the solution": 1}


def hub_cache(folder: Path, hub_id: str, config: str, revision: str, rows: list[Any]) -> None:
    """Write what `datasets` keeps of a hub data set, so that its id can be read offline."""
    made = parquet(folder / "rows.parquet", dict.fromkeys(rows[0], STRING), rows)
    files = {"train": str(made)}
    datasets.load_dataset("parquet", data_files=files, cache_dir=str(folder / "made" / config))
    (info,) = (folder / "made" / config).rglob("dataset_info.json")
    named = json.loads(info.read_text()) | {"config_name": config}
    info.write_text(json.dumps(named))
    name = hub_id.partition("/")[2]
    (info.parent / "parquet-train.arrow").rename(info.parent / f"{name}-train.arrow")
    target = folder / "cache" / hub_id.replace("/", "___") / config / "0.0.0" / revision
    shutil.copytree(info.parent, target)


def test_hub_id_is_read_in_all_its_parts_with_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for config in CompetitionMath.configs:
        row = {"problem": f"{config}?", "level": "1", "type": config, "solution": r"\boxed{2}"}
        hub_cache(tmp_path, CompetitionMath.hub_id, str(config), "3d" * 20, [row])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    entry, problems = converted(CompetitionMath(), CompetitionMath.hub_id, tmp_path / "out")
    assert [problem.task for problem in problems] == list(CompetitionMath.configs)
    assert entry["revision"] == "3d" * 20
    assert entry["source"] == "EleutherAI/hendrycks_math"


MATHVISION_TEXTS = ("id", "question", "image", "answer", "solution", "subject")


def mathvision_rows() -> list[dict[str, Any]]:
    asked = [
        ("When <image1> meets <image2>, how many?\n<image3>", [], "11 "),
        ("Which?\n<image1>", list("ABCDE"), "D"),
        ("How long?\n<image1>", ["1", "2", "3", "4", "5"], "B"),
        ("How much?\n<image1>", [], "\x0crac{36}{13}"),
        ("How wide?", [], r"$\boxed{\frac{90}{23}^{\circ}}$"),
        ("Which one?\n<image1>", ["(a)", "(b)", "(c)", "(d)", "(e)"], "C"),
        ("How steep?\n<image1>", [], "69{degrees}"),
    ]
    return [
        {"id": str(n), "question": question, "options": options, "image": f"images/{n}.jpg"}
        | {"answer": answer, "solution": None, "level": 2, "subject": "counting"}
        for n, (question, options, answer) in enumerate(asked)
    ]


def check_mathvision(problems: list[Problem]) -> None:
    assert golds(problems) == [
        ("When <image> meets , how many?", "11"),
        ("Which?\n<image>", "D"),
        ("How long?\n<image>", "B"),
        ("How much?\n<image>", r"\frac{36}{13}"),
        ("<image>How wide?", r"\frac{90}{23}"),
        ("Which one?\n<image>", "C"),
        ("How steep?\n<image>", "69"),
    ]
    assert [problem.choices for problem in problems] == [
        None,
        None,
        ("1", "2", "3", "4", "5"),
        None,
        None,
        None,
        None,
    ]
    assert [problem.unit for problem in problems] == [None] * 4 + ["°", None, "°"]
    kinds = [problem.answer_type for problem in problems]
    assert kinds == [None, "choice", "choice", None, None, "choice", None]


def test_mathvision_is_read_from_the_hub_and_from_the_repository(tmp_path: Path) -> None:
    features = dict.fromkeys(MATHVISION_TEXTS, STRING) | {
        "options": List(STRING),
        "decoded_image": IMAGE,
        "level": INT,
    }
    rows = [row | {"decoded_image": RED} for row in mathvision_rows()]
    source = parquet(tmp_path / "hub" / "testmini.parquet", features, rows)
    check_mathvision(converted(MathVision(), source.parent, tmp_path / "a", "testmini")[1])
    repository = tmp_path / "repository"
    (repository / "images").mkdir(parents=True)
    lines = []
    for row in mathvision_rows():
        (repository / row["image"]).write_bytes(png(3))
        lines.append(json.dumps(row))
    (repository / "testmini.jsonl").write_text("\n".join(lines))
    check_mathvision(converted(MathVision(), repository, tmp_path / "b", "testmini")[1])


DYNAMATH_GOLDS = [
    ("float", "2.0944", "number", {"abs": 0.001}),
    ("multiple choice", "B", "choice", None),
    ("text", "Product C", "text", None),
    ("text", "(1.000, 0.000)", "tuple", None),
    ("text", "x = 0", None, None),
]


def check_dynamath(problems: list[Problem], variants: int) -> None:
    golds_read = [(p.answer, p.answer_type, p.tolerance) for p in problems]
    assert golds_read == [gold[1:] for gold in DYNAMATH_GOLDS] * variants
    assert len({p.uid for p in problems}) == len(problems)
    assert {p.meta["cluster"] for p in problems} == {"1", "9", "17", "25", "33"}
    assert {p.task for p in problems} == {"analytic geometry"}


def test_dynamath_is_read_from_the_hub_and_from_the_repository(tmp_path: Path) -> None:
    names = ("id", "question", "image", "ground_truth", "answer_type", "subject", "knowledge_level")
    features = Features(dict.fromkeys(names, STRING) | {"decoded_image": IMAGE})
    rows, keyed = [], {}
    for index, (kind, answer, _, _) in enumerate(DYNAMATH_GOLDS):
        key, subject = str(8 * index + 1), "analytic     geometry"
        common = {"question": f"Question {index}?", "answer_type": kind, "subject": subject}
        keyed[key] = common | {"answer": answer, "image": "image/1.png", "level": "high school"}
        image = {"image": "images/1.png", "decoded_image": RED}
        rows.append(
            common | image | {"id": key, "ground_truth": answer, "knowledge_level": "high school"}
        )
    split = datasets.Dataset.from_list(rows, features=features)
    splits = {f"sample_variant{n}": split for n in range(1, 11)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "hub")
    check_dynamath(converted(DynaMath(), tmp_path / "hub", tmp_path / "a", "all")[1], 10)
    one = converted(DynaMath(), tmp_path / "hub", tmp_path / "b", "sample_variant3")[1]
    check_dynamath(one, 1)
    assert one[0].uid == "dynamath-sample_variant3-1-3"
    for trial in range(1, 11):
        folder = tmp_path / "repository" / f"trial{trial}"
        (folder / "image").mkdir(parents=True)
        (folder / "image" / "1.png").write_bytes(png(3))
        (folder / "dataset.json").write_text(json.dumps(keyed))
    entry, problems = converted(DynaMath(), tmp_path / "repository", tmp_path / "c", "all")
    check_dynamath(problems, 10)
    assert entry["images"] == 1
    with pytest.raises(ValueError, match="--split is all or sample_variant1 to sample_variant10"):
        converted(DynaMath(), tmp_path / "repository", tmp_path / "d", "test")


def virl_rows() -> list[dict[str, Any]]:
    asked: list[tuple[str, str, list[str]]] = [
        ("<image>Which of the two?", r"\boxed{A}", ["images/q0-0.png", "images/q0-1.png"]),
        ("How many?", r"\boxed{\frac{1}{2}}", ["images/q0-1.png", "images/q1-0.png"]),
        ("Without a picture?", r"\boxed{7}", []),
        ("<image>Where is it?", r"\boxed{7}", ["images/gone.png"]),
    ]
    return [
        {"question": question, "answer": answer, "image": images, "qid": f"q{n}"}
        | {"PassRate_32BTrained": 0.5, "PassRate_7BBase": -1.0}
        | {"category": "Geometry", "source": "Processed"}
        for n, (question, answer, images) in enumerate(asked)
    ]


def test_virl39k_images_come_from_the_zip_or_the_unpacked_folder(tmp_path: Path) -> None:
    texts = dict.fromkeys(("question", "answer", "category", "source", "qid"), STRING)
    rates = dict.fromkeys(("PassRate_32BTrained", "PassRate_7BBase"), Value("float64"))
    features = texts | rates | {"image": List(STRING)}
    source = parquet(tmp_path / "39Krelease.parquet", features, virl_rows())
    with pytest.raises(ValueError, match=r"no .*images\.zip and no folder images beside it"):
        converted(ViRL39K(), source, tmp_path / "none")
    contents = {"q0-0.png": png(1), "q0-1.png": png(2), "q1-0.png": png(3)}
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"images/{name}", content)
    entry, zipped = converted(ViRL39K(), tmp_path, tmp_path / "zipped")
    assert golds(zipped) == [
        ("<image><image>Which of the two?", "A"),
        ("<image><image>How many?", r"\frac{1}{2}"),
        ("Without a picture?", "7"),
    ]
    assert drops(entry) == {"no image file": 1}
    assert (entry["images"], entry["text_only"]) == (3, 1)
    assert zipped[0].meta["pass_rates"] == {"32BTrained": 0.5}
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        archive.extractall(tmp_path)
    (tmp_path / "images.zip").unlink()
    _, unpacked = converted(ViRL39K(), source, tmp_path / "unpacked")
    names = [[Path(image).name for image in p.images] for p in unpacked]  # type: ignore[arg-type]
    assert names == [[Path(i).name for i in p.images] for p in zipped]  # type: ignore[arg-type]
