"""The synthetic set: determinism, splits, answers read back from the pixels, rows on disk."""

import json
import random
import re
import subprocess
import sys
from collections import Counter

import pytest
from PIL import Image

from data_prep.scenes import CELL, COLORS, DIFFICULTIES, FAMILIES, STYLES, draw_scene, render, steps
from data_prep.synthetic import MAX_ANSWER_SHARE, generate, write


def scenes(count=60, seed=0):
    rng = random.Random(seed)
    for index in range(count):
        level = DIFFICULTIES[index // len(FAMILIES) % len(DIFFICULTIES)]
        yield draw_scene(rng, FAMILIES[index % len(FAMILIES)], level)


def is_coloured(pixel):
    return pixel in COLORS.values()


def answer_from_pixels(scene, image):
    """Answer like a person with a ruler who knows only the image and the question."""
    width, height = image.size
    coloured = [[is_coloured(image.getpixel((x, y))) for x in range(width)] for y in range(height)]
    if scene.family == "counting":
        return sum(
            image.getpixel((x, y)) == COLORS[scene.color]
            for x in range(CELL // 2, width, CELL)
            for y in range(CELL // 2, height, CELL)
        )
    if scene.family == "chart":
        middles = range(CELL // 2, width, CELL)
        return sum(sum(row[x] for row in coloured) // 3 for x in middles)
    slot = 2 * CELL
    total = 0
    for left in range(0, width, slot):
        high = sum(row[left + 1] for row in coloured) // 6
        wide = sum(coloured[-1][left : left + slot]) // 6
        total += high * wide
    return total


def test_generate_gives_the_same_problems_for_the_same_seed():
    first, again, other = (
        [(p.uid, p.scene, p.question, p.image.tobytes()) for p in generate("train", 24, seed=seed)]
        for seed in (3, 3, 4)
    )
    assert first == again
    assert [scene for _, scene, *_ in first] != [scene for _, scene, *_ in other]


def test_a_prefix_of_a_longer_draw_is_the_shorter_draw():
    long = [p.scene for p in generate("val", 40, seed=0)]
    assert [p.scene for p in generate("val", 15, seed=0)] == long[:15]


def test_splits_share_no_scene_whatever_the_seed():
    levels = tuple(DIFFICULTIES)
    digests = {
        split: {
            problem.scene.digest
            for seed in range(2)
            for problem in generate(split, 240, seed=seed, difficulty=levels)
        }
        for split in ("train", "val", "test")
    }
    assert min(map(len, digests.values())) > 250
    assert not digests["train"] & digests["val"]
    assert not digests["train"] & digests["test"]
    assert not digests["val"] & digests["test"]


def test_colour_of_bars_does_not_make_another_scene():
    rng = random.Random(0)
    chart, counting = (draw_scene(rng, family, 2) for family in ("chart", "counting"))
    others = [color for color in COLORS if color not in (chart.color, counting.color)]
    assert chart.digest == type(chart)("chart", 2, chart.parts, others[0]).digest
    assert counting.digest != type(counting)("counting", 2, counting.parts, others[0]).digest


def test_answers_can_be_read_from_the_pixels():
    for scene in scenes():
        assert answer_from_pixels(scene, render(scene)) == scene.answer, scene


def test_steps_add_up_and_cost_more_the_fuller_they_are():
    for scene in scenes():
        full, abbreviated, direct = (steps(scene, style) for style in STYLES)
        assert direct == ""
        assert len(full) > len(abbreviated) or len(scene.parts) == 1
        for text in (full, abbreviated):
            total = 0
            for line in text.split(";"):
                parts, _, running = line.partition("=")
                for width, height, value in re.findall(r"[a-h](?:(\d)\*(\d):)?(\d+)", parts):
                    assert not width or int(width) * int(height) == int(value)
                    total += int(value)
                assert not running or int(running) == total
            assert total == scene.answer


def test_difficulty_is_the_number_of_parts():
    rng = random.Random(0)
    counts = {
        family: [len(draw_scene(rng, family, level).parts) for level in DIFFICULTIES]
        for family in FAMILIES
    }
    assert counts == {"chart": [2, 4, 6, 8], "counting": [2, 3, 4, 5], "geometry": [1, 2, 3, 4]}


def test_families_alternate_and_no_answer_dominates():
    problems = list(generate("val", 900, seed=1))
    assert Counter(p.scene.family for p in problems) == dict.fromkeys(FAMILIES, 300)
    kinds = Counter((p.scene.family, p.scene.difficulty) for p in problems)
    for (family, level, _), count in Counter(
        (p.scene.family, p.scene.difficulty, p.scene.answer) for p in problems
    ).items():
        assert count <= 1 + MAX_ANSWER_SHARE * kinds[family, level]


def test_rows_on_disk_follow_the_format(tmp_path):
    path = write(tmp_path, "val", 9, seed=0, difficulty=(1, 2, 3))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert path == tmp_path / "val.jsonl"
    assert len({row["uid"] for row in rows}) == 9
    for row in rows:
        assert set(row) == {
            "uid",
            "problem",
            "answer",
            "images",
            "answer_type",
            "source",
            "task",
            "split",
            "meta",
        }
        assert row["problem"].count("<image>") == 1
        assert (row["answer_type"], row["source"], row["split"]) == ("number", "synthetic", "val")
        assert row["task"] in FAMILIES
        assert str(int(row["answer"])) == row["answer"]
        assert set(row["meta"]["steps"]) == set(STYLES)
        (image_path,) = row["images"]
        with Image.open(tmp_path / image_path) as image:
            assert image.mode == "RGB"
            assert image.width % CELL == image.height % CELL == 0
            assert 16 <= image.width * image.height // CELL**2 <= 32


def test_unknown_difficulty_is_refused():
    with pytest.raises(ValueError, match=r"difficulty is \[0, 5\]; give one or more of 1, 2, 3, 4"):
        generate("train", 1, seed=0, difficulty=(0, 5))


@pytest.mark.parametrize("levels", ["0", "3-5", "4-2", "two"])
def test_command_names_a_bad_difficulty(levels, tmp_path):
    command = [sys.executable, "-m", "data_prep.synthetic", "--output", tmp_path / "set"]
    done = subprocess.run(
        [*command, "--difficulty", levels], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"'{levels}' is not a level or range within 1-4" in done.stderr
    assert not (tmp_path / "set").exists()
