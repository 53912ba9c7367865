"""Warm starts of studies: what their lessons write.

Mutations, each seen red:
    the share of wrong boxes for right ones -> share of right boxes
    the own answer among the others -> a spoilt box is wrong
    `stride` ignored -> working of a known scene
"""

import random
import re

import pytest

from data_prep.scenes import Scene, completion
from data_prep.study_policies import ONES, PARTS, TWOS, tally, untaught
from data_prep.supervise import BOX, Lesson, _texts
from data_prep.synthetic import generate

SCENE = Scene("chart", 2, ((3,), (1,)), "red")


def test_tally_of_a_known_scene():
    assert ONES(SCENE) == "a1:0+1=1;a2:1+1=2;a3:2+1=3;b1:3+1=4 \\boxed{4}"
    assert TWOS(SCENE) == "a2:0+2=2;a3:2+1=3;b1:3+1=4 \\boxed{4}"
    assert PARTS(SCENE) == "a3:0+3=3;b1:3+1=4 \\boxed{4}"
    assert tally(Scene("counting", 1, ((1, 1, 1, 1), (0, 1, 1, 1)), "red"), 1) == (
        "b1:0+1=1 \\boxed{1}"
    )


@pytest.mark.parametrize("stride", [1, 2, 20])
def test_every_line_of_a_tally_adds_up(stride):
    for problem in generate("train", 60, seed=0, difficulty=(2, 3)):
        text = tally(problem.scene, stride)
        sums = [tuple(map(int, line)) for line in re.findall(r"(\d+)\+(\d+)=(\d+)", text)]
        assert all(before + added == after <= before + stride for before, added, after in sums)
        assert text.endswith(f" {BOX}{problem.scene.answer}}}".lstrip() if not sums else "}")
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


def test_policy_that_learns_to_count_is_tiny():
    policy, processor = untaught("tally")
    assert sum(parameter.numel() for parameter in policy.parameters()) < 500_000
    text = ONES(SCENE)
    assert processor.tokenizer.decode(processor.tokenizer(text).input_ids) == text
