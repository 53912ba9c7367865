"""Which training problems match a benchmark, and which benchmarks are refused.

Broken on purpose, one at a time, each seen red: short questions compared, pixels not compared,
broken pixels, case, marks, converted folders of two splits; long questions compared whole only, in
one direction only, short ones in parts; a benchmark by its name read as a table; only its first
split; columns of We-Math and LogicVista left out; sources without a question accepted; the line on
missing images; rows without a gold left out.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.convert import Options, convert, main
from data_prep.geometry3k import Geometry3K
from tests.support.benchmark_rows import ROWS, dynamath_folder
from tests.support.data_prep_helpers import encoded, geometry, noise, row, run
from vlm_rl.evaluation.overlap import Benchmarks, image_digests, normalised

LONG = "A circle stands on a square of side four; how long is its arc?"
LONGER = f"{LONG} Give it as a multiple of the side of the square."


def overlap_source(tmp_path: Path) -> Path:
    """Write a problem each: same image, image re-encoded, same text, short text, both, neither."""
    return geometry(
        tmp_path / "s.parquet",
        [
            row(encoded(noise(1)), "Something else?", "1"),
            row(encoded(noise(2), compress_level=0), "Other?", "2"),
            row(encoded(noise(4)), LONG.upper().replace(" ", "  "), "3"),
            row(encoded(noise(5)), "Find x.", "4"),
            row(encoded(noise(1)), "Find x!", "5"),
            row(encoded(noise(6)), "A new question about a new picture?", "6"),
        ],
    )


def check_overlap(entry: dict[str, Any]) -> None:
    assert {reason: d["count"] for reason, d in entry["dropped"].items()} == {
        "image in a benchmark": 2,
        "question in a benchmark": 1,
        "image and question in a benchmark": 1,
    }
    assert entry["written"] == 2


def test_benchmark_problems_are_removed_by_image_and_by_question(tmp_path: Path) -> None:
    known = [row(encoded(noise(1)), LONG), row(encoded(noise(2)), "Find x.")]
    raw = geometry(tmp_path / "b.parquet", known)
    source = overlap_source(tmp_path)
    check_overlap(run(source, tmp_path / "raw", exclude_benchmarks=[str(raw)]))
    run(raw, tmp_path / "converted")
    convert(Geometry3K(), Options(str(raw), "test", tmp_path / "converted"))
    folder = str(tmp_path / "converted")
    entry = run(source, tmp_path / "by folder", exclude_benchmarks=[folder])
    check_overlap(entry)
    compared = {"path": folder, "questions": 2, "images": 2, "images_missing": 0}
    assert entry["benchmarks"] == [compared]


def test_benchmark_tables_are_read_in_their_published_columns(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(encoded(noise(1)))
    (tmp_path / "images" / "2.png").write_bytes(encoded(noise(2)))
    lines = [
        {"id": "1", "question": f"{LONG}\n<image1>", "image": "images/1.png"},
        {"id": "2", "question": "Find x.", "image": "images/2.png"},
        {"id": "3", "question": "Absent?", "image": "images/3.png"},
    ]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)))
    path = str(tmp_path / "b.jsonl")
    entry = run(overlap_source(tmp_path), tmp_path / "out", exclude_benchmarks=[path])
    check_overlap(entry)
    assert entry["benchmarks"][0]["images_missing"] == 1
    (tmp_path / "c.jsonl").write_text('{"text": "?"}')
    with pytest.raises(ValueError, match=r"no column problem, question, query or image.*are text"):
        Benchmarks([str(tmp_path / "c.jsonl")])


def test_questions_and_images_are_compared_by_content() -> None:
    assert normalised("<image> Find  X, please:<image 2>") == normalised("find x please")
    assert normalised("Find 2.5") != normalised("Find 25.5")
    first, again = image_digests(encoded(noise(1))), image_digests(encoded(noise(1), "BMP"))
    assert first[0] != again[0]
    assert first[1] == again[1]
    assert first[1] != image_digests(encoded(noise(2)))[1]
    assert len(image_digests(encoded(noise(1))[:40])) == 1


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize(
    ("training", "reason"),
    [
        (f"{LONGER} Choices: (A) 1 (B) 2", "part of the question in a benchmark"),
        (f"Look at the picture. {LONGER}", "part of the question in a benchmark"),
        (LONGER[8:-5], "part of the question in a benchmark"),
        (LONGER.replace("square", "cube"), None),
        (f"{LONG} Choices: (A) 1 (B) 2", None),  # below 60 letters and digits in common
        (LONG, None),
        ("Look at the picture. Is it blue?", None),
    ],
)
def test_long_question_is_found_with_more_around_it(
    training: str, reason: str | None, tmp_path: Path
) -> None:
    rows = [{"question": LONGER}, {"question": "Is it blue?"}, {"question": LONGER[::-1]}]
    known = Benchmarks([str(lines(tmp_path / "b.jsonl", rows))])
    assert known.match(training, []) == reason


def test_benchmark_is_named_with_its_copy(tmp_path: Path) -> None:
    folder = dynamath_folder(tmp_path / "dynamath")
    (known,) = Benchmarks([f"dynamath={folder}"]).read
    assert (known.questions, known.images, known.images_missing) == (1, 1, 0)
    (tmp_path / "0.png").write_bytes(encoded(noise(1)))
    for name in ("wemath", "logicvista", "mathverse", "mmmu"):
        source = lines(tmp_path / f"{name}.jsonl", ROWS[name])
        benchmarks = Benchmarks([f"{name}={source}"])
        assert benchmarks.read[0].images_missing == 0
        assert benchmarks.match("?", [encoded(noise(1))]) == "image in a benchmark"
        assert benchmarks.read[0].path == f"{name}={source}"


def test_all_splits_of_a_benchmark_count_unless_one_is_named(tmp_path: Path) -> None:
    for split, question in (("testmini", "In the small one?"), ("test", "In the large one?")):
        rows = [ROWS["mathvision"][1] | {"question": question}]
        lines(tmp_path / f"{split}.jsonl", rows)
    assert Benchmarks([f"mathvision={tmp_path}"]).read[0].questions == 2
    named = Benchmarks([f"mathvision:test={tmp_path}"])
    assert named.match("In the large one?", []) is None  # short: it needs its image
    assert named.read[0].questions == 1
    with pytest.raises(ValueError, match="mathvision has the splits testmini, test, got 'tset'"):
        Benchmarks([f"mathvision:tset={tmp_path}"])


def test_question_without_a_gold_is_a_question(tmp_path: Path) -> None:
    source = lines(tmp_path / "b.jsonl", [ROWS["mathvista"][0] | {"answer": "", "question": LONG}])
    assert Benchmarks([f"mathvista={source}"]).match(LONG, []) == "question in a benchmark"


@pytest.mark.parametrize("column", ["image_path", "imagename"])
def test_images_in_columns_of_other_names_are_compared(column: str, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(encoded(noise(1)))
    source = lines(tmp_path / "b.jsonl", [{"question": "?a", column: "1.png"}])
    assert Benchmarks([str(source)]).match("?", [encoded(noise(1))]) == "image in a benchmark"


def test_source_without_a_question_is_refused(tmp_path: Path) -> None:
    folder = dynamath_folder(tmp_path / "dynamath")
    with pytest.raises(ValueError, match=rf"as NAME={folder}: .*dynamath"):
        Benchmarks([folder])
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.png").write_bytes(encoded(noise(1)))
    with pytest.raises(ValueError, match=r"pictures gives no question .* as NAME="):
        Benchmarks([str(tmp_path / "pictures")])
    empty = lines(tmp_path / "b.jsonl", [{"question": " ", "image": "1.png"}])
    with pytest.raises(ValueError, match=r"b\.jsonl gives no question to compare with"):
        Benchmarks([str(empty)])


def test_missing_images_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = geometry(tmp_path / "s.parquet", [row(encoded(noise(1)), "Good?")])
    rows = [{"question": LONG, "image": f"{n}.png"} for n in range(2)]
    known = lines(tmp_path / "b.jsonl", rows)
    arguments = ("--source", source, "--output", tmp_path / "out", "--exclude-benchmarks", known)
    monkeypatch.setattr("sys.argv", ["geometry3k", *map(str, arguments)])
    main(Geometry3K())
    said = capsys.readouterr().out
    assert f"compared with {known}: 1 questions and 0 images; 2 images are MISSING: " in said
