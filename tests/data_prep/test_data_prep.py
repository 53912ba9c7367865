"""What all data preparation scripts share: files, drops, overlap, refusals.

Broken on purpose, one at a time, each seen red here or in test_data_prep_sets.py: in `convert` a
row without all columns, more marks than images, one missing mark where several are, empty
questions, empty choices, half characters, the limit, the overlap, golds not checked, unused images
kept, the output in the manifest, a uid for all, no exit where nothing is written; in `converter`
the column check, form feeds stripped, the revision, only the first config; in `golds` control
characters, degrees, boxes, the first box, spaces around words; in `on_disk` shared images
taken back, splits forgotten, foreign folders; NaN cells as text; percentages as numbers.
"""

import hashlib
import importlib
import json
import pkgutil
import sys
from pathlib import Path

import datasets
import pytest
from datasets import Features, List, Value
from PIL import Image

import data_prep
from data_prep.competition_math import CompetitionMath
from data_prep.convert import Options, convert, main
from data_prep.converter import Converter, text
from data_prep.geometry3k import Geometry3K, Geometry3KChoices
from data_prep.golds import plain_answer
from tests.support.data_prep_helpers import encoded, files, geometry, noise, row, run
from vlm_rl.data.images import ImageStore
from vlm_rl.data.rows import read_problems


def every_converter() -> list[type[Converter]]:
    """Return the converters of all modules, so that a new script is tested at once."""
    modules = [
        importlib.import_module(f"data_prep.{module.name}")
        for module in pkgutil.iter_modules(data_prep.__path__)
        if module.name != "warm_start"
    ]
    return [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Converter)
        and value.__module__ == module.__name__
        and hasattr(value, "name")  # else it is what several scripts share
    ]


CONVERTERS = every_converter()


def test_all_ten_sets_have_a_script() -> None:
    assert {converter.name for converter in CONVERTERS} >= {
        "geometry3k",
        "geoqa",
        "virl39k",
        "mmk12",
        "mathvision",
        "dynamath",
        "clevr",
        "open_r1",
        "dapo_math",
        "competition_math",
    }


@pytest.mark.parametrize("converter", CONVERTERS, ids=lambda converter: converter.__name__)
def test_unknown_schema_is_refused_by_the_name_of_the_column(
    converter: type[Converter], tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    for missing in converter.layouts[0]:
        kept = {column: [""] for column in converter.layouts[0] if column != missing}
        if any(kept.keys() >= set(layout) for layout in converter.layouts):
            continue
        path = tmp_path / f"{missing}.parquet"
        datasets.Dataset.from_dict(kept | {"extra_column": [""]}).to_parquet(path)
        with pytest.raises(ValueError, match=f"no column '{missing}'") as refused:
            convert(converter(), Options(str(path), converter.split, tmp_path / "out"))
        assert "extra_column" in str(refused.value)
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("converter", CONVERTERS, ids=lambda converter: converter.__name__)
def test_every_script_says_its_command_its_schema_and_its_licence(
    converter: type[Converter],
) -> None:
    said = sys.modules[converter.__module__].__doc__ or ""
    assert converter.__module__ == f"data_prep.{converter.name}"
    for word in (f"python -m data_prep.{converter.name} ", "Schema", "Licence", "Flaws handled"):
        assert word in said


def test_images_are_kept_byte_for_byte_whatever_their_mode(tmp_path: Path) -> None:
    images = {
        "rgba": encoded(noise(1, "RGBA")),
        "palette": encoded(noise(2, "P")),
        "grey16": encoded(Image.new("I;16", (16, 12), 40000)),
        "strip": encoded(Image.new("L", (5, 8920), 9)),
        "jpeg": encoded(noise(3), "JPEG"),
    }
    source = geometry(
        tmp_path / "s.parquet", [row(content, name) for name, content in images.items()]
    )
    benchmark = geometry(tmp_path / "b.parquet", [row(encoded(noise(9)), "Other?")])
    entry = run(source, tmp_path / "out", exclude_benchmarks=[str(benchmark)])
    assert (entry["written"], entry["images"]) == (5, 5)
    rows = read_problems(str(tmp_path / "out" / "train.jsonl"), ImageStore(), owners={})
    for problem, content in zip(rows.problems, images.values(), strict=True):
        (path,) = problem.images
        assert isinstance(path, Path)
        assert path.read_bytes() == content
        assert path.stem == hashlib.sha256(content).hexdigest()
    assert sorted(p.suffix for p in (tmp_path / "out" / "images").iterdir()) == [
        ".jpg",
        ".png",
        ".png",
        ".png",
        ".png",
    ]


def test_rows_that_can_not_be_problems_are_counted_and_named(tmp_path: Path) -> None:
    good = encoded(noise(1))
    source = geometry(
        tmp_path / "s.parquet",
        [
            row(good, "One image?"),
            row(good, "<image>Two marks, one image?"),
            row(good[:30], "Broken?"),
            row(good, "  "),
            row(encoded(noise(2)), "No answer?", " "),
            row(encoded(noise(3)), "No number?", r"\frac{1}{"),
            {"images": [], "problem": "Text only?", "answer": "5"},
        ],
    )
    entry = run(source, tmp_path / "out")
    assert {reason: d["count"] for reason, d in entry["dropped"].items()} == {
        "more image marks than images": 1,
        "broken image": 1,
        "empty question": 1,
        "empty answer": 1,
        "gold cannot be verified": 1,
    }
    assert entry["dropped"]["broken image"]["examples"] == ["row 3"]
    assert (entry["read"], entry["written"], entry["text_only"]) == (7, 2, 1)
    # the image of the gold that failed last was already on disk
    assert len(list((tmp_path / "out" / "images").iterdir())) == entry["images"] == 1


def test_ragged_lines_are_counted_and_named(tmp_path: Path) -> None:
    good = {"problem": "Half?", "solution": r"\boxed{2}", "level": "1", "type": "Algebra"}
    lines = [
        json.dumps(good),
        json.dumps({"problem": "No level?", "solution": r"\boxed{2}", "type": "Algebra"}),
        "[1, 2]",
        "{",
        json.dumps(good | {"problem": {"nested": "question"}}),
        json.dumps(good | {"problem": "half \ud800?"}),
    ]
    (tmp_path / "s.jsonl").write_text("\n".join(lines))
    options = Options(str(tmp_path / "s.jsonl"), "train", tmp_path / "out")
    entry, drops = convert(CompetitionMath(), options)
    assert entry["written"] == 1
    assert {reason: rows["examples"] for reason, rows in drops.plain().items()} == {
        "a column is missing in the row": ["row 2"],
        "not an object": ["row 3"],
        "bad json": ["row 4"],
        "a cell of type dict where text should be": ["row 5"],
        "half a character (a lone surrogate)": ["row 6"],
    }


def test_cells_that_are_not_numbers_are_empty(tmp_path: Path) -> None:
    good = {"problem": "Half?", "solution": r"\boxed{2}", "level": float("nan"), "type": "Algebra"}
    lines = [good, good | {"problem": float("nan")}, good | {"problem": float("-inf")}]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = Options(str(tmp_path / "s.jsonl"), "train", tmp_path / "out")
    entry, drops = convert(CompetitionMath(), options)
    assert entry["written"] == 1
    assert drops.plain()["empty question"]["count"] == 2
    assert text(float("nan")) == ""
    assert "nan" not in (tmp_path / "out" / "train.jsonl").read_text().casefold()


def test_number_that_is_asked_for_as_a_percentage_has_that_type(tmp_path: Path) -> None:
    questions = ["What percent is shaded?", "How many are shaded, if 20 percent are not?"]
    rows = [row(encoded(noise(n)), question) for n, question in enumerate(questions)]
    run(geometry(tmp_path / "s.parquet", rows), tmp_path / "out")
    written = (tmp_path / "out" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line).get("answer_type") for line in written] == ["percent", None]


def test_converting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    rows = [row(encoded(noise(n % 3)), f"Question {n}?", str(n)) for n in range(6)]
    source = geometry(tmp_path / "s.parquet", [*rows, row(encoded(noise(1)), "Bad?", " ")])
    run(source, tmp_path / "a")
    run(source, tmp_path / "b")
    written = files(tmp_path / "a")
    assert written == files(tmp_path / "b")
    run(source, tmp_path / "a")
    assert written == files(tmp_path / "a")
    assert len([name for name in written if name.startswith("images")]) == 3
    entry = json.loads(written["manifest.json"])["splits"]["train"]
    assert entry["sha256"] == hashlib.sha256(written["train.jsonl"]).hexdigest()
    assert entry["versions"].keys() == {"vlm_rl", "pint"}
    assert entry["command"].startswith("python -m data_prep.geometry3k --source ")


def test_splits_share_a_folder_and_another_set_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    shared_image = encoded(noise(1))
    geometry(folder / "train.parquet", [row(shared_image, "In train?")])
    # the image of train is removed from test, which must not remove it from train
    rows = [row(encoded(noise(2)), "In test?"), row(shared_image, "Bad?", r"\frac{1}{")]
    geometry(folder / "test.parquet", rows)
    output = tmp_path / "out"
    for split in ("train", "test"):
        convert(Geometry3K(), Options(str(folder), split, output))
    splits = json.loads((output / "manifest.json").read_text())["splits"]
    assert [(name, entry["written"]) for name, entry in splits.items()] == [
        ("test", 1),
        ("train", 1),
    ]
    for split in splits:
        rows = read_problems(str(output / f"{split}.jsonl"), ImageStore(), owners={})
        assert not rows.skipped
    manifest = json.loads((output / "manifest.json").read_text())
    (output / "manifest.json").write_text(json.dumps(manifest | {"data_set": "geoqa"}))
    with pytest.raises(ValueError, match="holds geoqa; choose another --output for geometry3k"):
        run(folder / "train.parquet", output)


def test_limit_reads_only_the_first_rows(tmp_path: Path) -> None:
    rows = [row(encoded(noise(n)), f"Question {n}?") for n in range(5)]
    source = geometry(tmp_path / "s.parquet", rows)
    assert run(source, tmp_path / "out", limit=2)["read"] == 2
    with pytest.raises(ValueError, match="--limit must be at least 1, got 0"):
        run(source, tmp_path / "out", limit=0)


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        (r"2 \sqrt { 221 }", r"2 \sqrt{221}"),
        (r"\frac { 1 } { 2 }", r"\frac{1}{2}"),
        (r"\{ 1, 2 \}", r"\{ 1, 2 \}"),
        (r"5 \text { or } 6", r"5 \text { or } 6"),
        ("140°", r"140^\circ"),
        ("2√3 + √ 5", r"2\sqrt{3} + \sqrt{5}"),
        ("4π", r"4\pi"),
        ("\x0crac{36}{13}", r"\frac{36}{13}"),
        ("11 ", "11"),
        (r"$\boxed{\frac{16}{7}}$", r"\frac{16}{7}"),
        ("<answer> $140°$ </answer>", r"140^\circ"),
        ("$5 and $6", "$5 and $6"),
        ("Product C", "Product C"),
    ],
)
def test_answers_are_made_plain_without_changing_their_meaning(raw: str, plain: str) -> None:
    assert plain_answer(raw) == plain
    assert plain_answer(plain) == plain


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["geometry3k", *map(str, arguments)])
    main(Geometry3K(), Geometry3KChoices())


def test_command_line_ends_with_the_place_and_the_drops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row(encoded(noise(1)), "Good?"), row(encoded(noise(2)), "Bad?", " ")]
    source = geometry(tmp_path / "s.parquet", rows)
    command(monkeypatch, "--source", source, "--output", tmp_path / "out")
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"1 problems with 1 images are in {tmp_path / 'out' / 'train.jsonl'}; "
        "1 of 2 rows left out: 1 empty answer"
    )
    with pytest.raises(SystemExit, match=r"0 problems .*1 image and question in a benchmark"):
        command(
            monkeypatch,
            *("--source", source, "--output", tmp_path / "less", "--limit", 1),
            *("--exclude-benchmarks", tmp_path / "out"),
        )
    said = capsys.readouterr().out.splitlines()
    assert f"compared with {tmp_path / 'out'}: 1 questions and 1 images" in said
    geometry(tmp_path / "bad.parquet", rows[1:])
    with pytest.raises(SystemExit, match=r"0 problems .*1 of 1 rows left out: 1 empty answer"):
        command(monkeypatch, "--source", tmp_path / "bad.parquet", "--output", tmp_path / "none")
    with pytest.raises(SystemExit, match=r"geometry3k: .* is not a .* file, folder, or hub id"):
        command(monkeypatch, "--source", "not there", "--output", tmp_path / "none")


def test_command_in_the_manifest_is_the_one_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_choices = row(encoded(noise(1)), "Which?") | {"choices": ["4", "5"], "ground_truth": "B"}
    source = tmp_path / "s.parquet"
    names = {"images": List(datasets.Image()), "choices": List(Value("string"))}
    texts = dict.fromkeys(("problem", "answer", "ground_truth"), Value("string"))
    datasets.Dataset.from_list([with_choices], Features(names | texts)).to_parquet(source)
    command(monkeypatch, "--source", source, "--output", tmp_path / "out", "--choices")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["splits"]["train"]["command"] == (
        f"python -m data_prep.geometry3k --source {source} --split train --output FOLDER --choices"
    )
    assert json.loads((tmp_path / "out" / "train.jsonl").read_text())["answer"] == "B"
