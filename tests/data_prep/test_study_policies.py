"""Warm starts of studies: what their lessons write.

Mutations, each seen red:
    the share of wrong boxes for right ones -> share of right boxes
    the own answer among the others -> a spoilt box is wrong
    `stride` ignored -> working of a known scene
    targets from 1 -> no completion exceeds its own
"""

import random
import re

import pytest
import yaml

from data_prep.scenes import Scene, completion
from data_prep.study_policies import ONES, PARTS, TOLD, TWOS, tally
from data_prep.supervise import BOX, Lesson, _texts, _with_target
from data_prep.synthetic import generate
from tests.support.places import CONFIGS

SCENE = Scene("chart", 2, ((3,), (1,)), "red")


def test_tally_of_a_known_scene():
    assert ONES(SCENE) == "a3:0+1=1/2,1+1=2/1,2+1=3/0;b1:3+1=4/0 \\boxed{4}"
    assert TWOS(SCENE) == "a3:0+2=2/1,2+1=3/0;b1:3+1=4/0 \\boxed{4}"
    assert PARTS(SCENE) == "a3:0+3=3/0;b1:3+1=4/0 \\boxed{4}"
    assert tally(Scene("counting", 1, ((1, 1, 1, 1), (0, 1, 1, 1)), "red"), 1) == (
        "a0:;b1:0+1=1/0 \\boxed{1}"
    )


@pytest.mark.parametrize("stride", [1, 2, 20])
def test_every_line_of_a_tally_adds_up(stride):
    for problem in generate("train", 60, seed=0, difficulty=(2, 3)):
        text = tally(problem.scene, stride)
        sums = [tuple(map(int, line)) for line in re.findall(r"(\d+)\+(\d+)=(\d+)", text)]
        assert all(before + added == after <= before + stride for before, added, after in sums)
        assert text.endswith(f" {BOX}{problem.scene.answer}}}")
        assert (sums[-1][-1] if sums else 0) == problem.scene.answer


def lesson(shares: tuple[float, ...] | None) -> Lesson:
    return Lesson(0, 1, (1, 0, 1), 1e-3, 1e-3, 1, seed=0, right_shares=shares)


def test_shares_of_right_boxes_and_their_steps():
    problems = list(generate("train", 2000, seed=1))
    texts = _texts(random.Random(0), lesson((0.4, 1.0, 0.7)), problems, mixed=True)
    right: dict[bool, list[bool]] = {True: [], False: []}
    for problem, text in zip(problems, texts, strict=True):
        whole, direct = completion(problem.scene, "full"), text.startswith(BOX)
        right[direct].append(text.endswith(f"{BOX}{problem.scene.answer}}}"))
        if not direct:
            assert text[: text.rindex(BOX)] == whole[: whole.rindex(BOX)], "the steps stay right"
    assert sum(right[False]) / len(right[False]) == pytest.approx(0.4, abs=0.05)
    assert sum(right[True]) / len(right[True]) == pytest.approx(0.7, abs=0.05)


def test_lessons_without_shares_are_always_right():
    problems = list(generate("train", 30, seed=1))
    for problem, text in zip(
        problems, _texts(random.Random(0), lesson(None), problems, mixed=True), strict=True
    ):
        assert text in {completion(problem.scene, "full"), completion(problem.scene, "direct")}


def test_a_group_of_equal_answers_still_has_a_wrong_box():
    problem = next(iter(generate("train", 1, seed=1)))
    (text,) = _texts(random.Random(0), lesson((0.0, 0.0, 0.0)), [problem], mixed=True)
    assert text.endswith(f"{BOX}{problem.scene.answer + 1}}}")


def test_targets_are_those_of_the_overlay_and_no_completion_exceeds_its_own():
    overlay = yaml.safe_load((CONFIGS / "length" / "l1_max.yaml").read_text())
    assert TOLD.sentence == overlay["data"]["length_targets"]["sentence"]
    problems = list(generate("train", 400, seed=1))
    lengths = [5 + number % 60 for number in range(len(problems))]
    told = _with_target(random.Random(0), TOLD.sentence, 48, problems, lengths)
    spare = []
    for before, after, length in zip(problems, told, lengths, strict=True):
        (target,) = re.findall(r"Think for at most (\d+) tokens\.$", after.question)
        assert after.question.startswith(before.question)
        assert length <= int(target) <= max(length, 48)
        spare.append(int(target) - length)
    assert max(spare) > 30, "a short completion may have a large target"
