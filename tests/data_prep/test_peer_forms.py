"""Rows in the forms of other trainers: what is read back is what was written.

Broken on purpose, one at a time, each seen red:
"""

import json
import random
import re
import sys
from pathlib import Path

import datasets
import pytest

from data_prep import convert as module
from data_prep import peer_forms
from data_prep.convert import Options, convert
from data_prep.geometry3k import Geometry3K
from data_prep.on_disk import ImageFolder, write_rows
from data_prep.peer_forms import PEERS, changes, write_peer_rows
from tests.data.test_row_forms import pixels
from tests.support.data_prep_helpers import encoded, files, geometry, noise, row
from tests.support.row_forms import Truth, draw
from vlm_rl.data.images import ImageStore
from vlm_rl.data.prompts import choices_text
from vlm_rl.data.rows import read_problems
from vlm_rl.records import Problem


def native(rng: random.Random, number: int, folder: Path, system: bool) -> dict:
    """Return a random row in our own form, and write its images."""
    truth: Truth = draw(rng, number)
    images = [ImageFolder(folder).save(content) for content in truth.images]
    answer = truth.answer
    if truth.options and rng.random() < 0.3:  # by its text
        answer = truth.options["ABCD".index(answer)]
    values = {
        "uid": f"set-train-{number}",
        "problem": truth.marked,
        "answer": answer,
        "images": images,
        "answer_type": "choice" if truth.options else "number",
        "choices": truth.options and [*truth.options],
        "unit": rng.choice((None, "cm")) if not truth.options else None,
        "tolerance": rng.choice((None, {"abs": 0.5}, {"rel": 0.05})) if not truth.options else None,
        "source": "set",
        "task": rng.choice(("bars", "")),
        "split": "train",
        "meta": rng.choice(({}, {"level": 2, "deep": {"a": [1, None]}}, {"Ä": "</s>"})),
        "system": truth.system if system else None,
    }
    return {name: value for name, value in values.items() if value not in (None, "")}


def read(file: Path) -> list[Problem]:
    found = read_problems(str(file), ImageStore(), owners={})
    assert found.skipped == []
    return found.problems


@pytest.mark.parametrize("form", PEERS)
@pytest.mark.parametrize("seed", range(5))
def test_rows_of_peers_say_what_ours_say(
    form: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_forms, "_ROWS_AT_ONCE", 7)
    rng = random.Random(seed)
    rows = [native(rng, number, tmp_path, system=form == "trl") for number in range(30)]
    write_rows(tmp_path / "train.jsonl", rows)
    write_peer_rows(tmp_path / "train.parquet", rows, form)
    ours, theirs = read(tmp_path / "train.jsonl"), read(tmp_path / "train.parquet")
    assert len(ours) == len(theirs) == 30
    for mine, other in zip(ours, theirs, strict=True):
        assert other.question == mine.question + choices_text(mine.choices)
        assert [*map(pixels, other.images)] == [*map(pixels, mine.images)]
        for name in ("uid", "answer_type", "unit", "tolerance", "task", "split", "meta", "system"):
            assert getattr(other, name) == getattr(mine, name), name
        letters = dict(zip(mine.choices or (), "ABCD", strict=False))
        assert other.answer == letters.get(mine.answer, mine.answer)
    counted = changes(rows)
    assert counted["the options are written into the question"] == sum(
        one.choices is not None for one in ours
    )
    assert counted.get("the answer is the letter of its option", 0) == sum(
        mine.answer != other.answer for mine, other in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("form", PEERS)
def test_tables_are_those_that_the_peers_load(form: str, tmp_path: Path) -> None:
    rng = random.Random(9)
    rows = [native(rng, number, tmp_path, system=False) for number in range(8)]
    write_peer_rows(tmp_path / "train.parquet", rows, form)
    table = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "train.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert table.features["images"] == datasets.List(datasets.Image())
    for got, was in zip(table, rows, strict=True):
        images = [pixels(tmp_path / name) for name in was["images"]]
        assert [(one.size, one.convert("RGB").tobytes()) for one in got["images"]] == images
        if form == "easyr1":
            assert got["problem"].count("<image>") == len(images)
            continue
        (turn,) = got["prompt"]
        kinds = [part["type"] for part in turn["content"]]
        assert (turn["role"], kinds.count("image")) == ("user", len(images))
        assert all(bool(part["text"]) == (part["type"] == "text") for part in turn["content"])
        assert "<image>" not in str(turn)


def test_what_a_form_cannot_carry_is_an_error_that_names_the_row(tmp_path: Path) -> None:
    asked = {"uid": "set-1", "problem": "Which?", "answer": "3", "images": []}
    with pytest.raises(ValueError, match=r"row set-1: the EasyR1 form has no place .*--form trl"):
        write_peer_rows(tmp_path / "a.parquet", [asked | {"system": "Be brief."}], "easyr1")
    for form in PEERS:
        marked = asked | {"choices": ["<image>", "b"]}
        with pytest.raises(ValueError, match="row set-1: 1 <image> marks, options included, for 0"):
            write_peer_rows(tmp_path / "a.parquet", [marked], form)


@pytest.mark.parametrize("form", PEERS)
def test_converter_writes_the_same_problems_for_a_peer(form: str, tmp_path: Path) -> None:
    pictures = [encoded(noise(seed)) for seed in range(3)]
    asked = [row(one, f"Find x{n}.", str(n)) for n, one in enumerate(pictures)]
    source = geometry(tmp_path / "raw.parquet", asked)
    outputs = [tmp_path / name for name in ("ours", "theirs", "again")]
    for output, which in zip(outputs, ("vlm_rl", form, form), strict=True):
        convert(Geometry3K(), Options(str(source), "train", output, form=which))
    entry = json.loads((outputs[1] / "manifest.json").read_text())["splits"]["train"]
    assert (entry["file"], entry["written"]) == ("train.parquet", 3)
    assert entry["command"].endswith(f"--form {form}")
    assert sorted(files(outputs[1])) == ["manifest.json", "train.parquet"]
    assert files(outputs[1]) == files(outputs[2]), "twice the same bytes"
    ours, theirs = (
        read(outputs[n] / f"train.{kind}") for n, kind in ((0, "jsonl"), (1, "parquet"))
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert (other.question, other.answer, other.uid) == (mine.question, mine.answer, mine.uid)
        assert [*map(pixels, other.images)] == [*map(pixels, mine.images)]
    with pytest.raises(ValueError, match=rf"holds train in the form {form}; choose another"):
        convert(Geometry3K(), Options(str(source), "train", outputs[1]))


def test_command_line_takes_a_form_and_prints_what_it_changed(tmp_path, monkeypatch, capsys):
    source = geometry(tmp_path / "raw.parquet", [row(encoded(noise(0)), "Find x.")])
    output = tmp_path / "out"
    command = ["geometry3k", "--source", str(source), "--output", str(output), "--form", "trl"]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(module, "changes", lambda rows: {"one thing": len(rows)})
    module.main(Geometry3K())
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "1 rows: one thing" in shown
    assert "train.parquet" in shown
