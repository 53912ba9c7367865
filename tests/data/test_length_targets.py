"""Targets of length: in meta, in the prompt, the same on every rank and in every run.

Mutations tried, each seen red: the global generator; the seed ignored; a target drawn over
that of the row.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.places import TINY_POLICY
from tests.support.problem_data import data, write
from vlm_rl.data.length_targets import LengthTargets
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.records import Problem
from vlm_rl.rewards import L1Exact


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return PromptEncoder(str(TINY_POLICY), max_prompt_tokens=400)


def targets_of(problems: Sequence[Problem]) -> dict[str, int]:
    return {problem.uid: problem.meta["target_length"] for problem in problems}


def test_prompts_say_the_target_that_the_reward_reads(encoder, tmp_path):
    targets = LengthTargets(100, 400)
    val = write(tmp_path, 3, "v", choices=["1", "2"], answer="1")
    train = write(tmp_path, 20)
    module = data(encoder, train, length_targets=targets)
    told = next(iter(module.train_dataloader()))
    for prompt in told:
        target = prompt.problem.meta["target_length"]
        assert 100 <= target <= 400
        assert f"? Think for {target} tokens." in encoder.tokenizer.decode(prompt.token_ids)
    assert L1Exact().unusable(module.train_set) == []
    assert len(set(targets_of(module.train_set).values())) > 10
    # behind the question, before the options
    shown = data(encoder, val, length_targets=targets, prompts_per_step=3).train_set[0]
    text = encoder.tokenizer.decode(encoder.encode(shown).token_ids)
    assert f"? Think for {shown.meta['target_length']} tokens.\nChoices:" in text
    plain = data(encoder, train)
    assert "target_length" not in plain.train_set[0].meta
    assert len(L1Exact().unusable(plain.train_set)) == 20


def test_target_depends_on_seed_and_uid_alone(encoder, tmp_path):
    path = write(tmp_path, 12)
    first = targets_of(data(encoder, path, length_targets=LengthTargets(1, 9999)).train_set)
    lines = Path(path).read_text().splitlines(keepends=True)
    Path(path).write_text("".join(reversed(lines)))
    again = data(encoder, path, seed=5, length_targets=LengthTargets(1, 9999)).train_set
    assert targets_of(again) == first
    other = data(encoder, path, length_targets=LengthTargets(1, 9999, seed=1)).train_set
    assert targets_of(other) != first
    # the numbers themselves, so that a resumed run on another machine has the same
    drawn = [LengthTargets(100, 4000).given_to(Problem(u, "?", "1")) for u in ("t0", "t1")]
    assert [problem.meta["target_length"] for problem in drawn] == [3953, 1710]


def test_row_keeps_its_own_target_and_both_ends_are_drawn():
    targets = LengthTargets(3, 5, key="budget", sentence="At most {tokens}.")
    own = targets.given_to(Problem("a", "Why?", "1", meta={"budget": 77, "other": 1}))
    assert own.meta == {"budget": 77, "other": 1}
    assert own.question == "Why? At most 77."
    drawn = {targets.given_to(Problem(str(i), "?", "1")).meta["budget"] for i in range(60)}
    assert drawn == {3, 4, 5}


def test_levels_are_drawn_and_named():
    levels = {"short": 500, "medium": 1500, "long": 4000}
    targets = LengthTargets(1, 4000, sentence="Reasoning: {level}.", levels=levels)
    drawn = [targets.given_to(Problem(str(i), "Why?", "1")) for i in range(60)]
    assert {problem.meta["target_length"] for problem in drawn} == set(levels.values())
    for problem in drawn:
        (name,) = (n for n, tokens in levels.items() if tokens == problem.meta["target_length"])
        assert problem.question == f"Why? Reasoning: {name}."
    numbers = LengthTargets(1, 4000, levels=levels).given_to(Problem("0", "Why?", "1"))
    assert numbers.question == f"Why? Think for {numbers.meta['target_length']} tokens."
    own = Problem("a", "Why?", "1", meta={"target_length": 77})
    with pytest.raises(ValueError, match=r"'a' has target_length 77, which is none of .*; add it"):
        targets.given_to(own)


def test_a_resumed_run_notices_another_range(encoder, tmp_path):
    path = write(tmp_path, 8)
    state = data(encoder, path, length_targets=LengthTargets(10, 90)).state_dict()
    same = data(encoder, path, length_targets=LengthTargets(10, 90))
    same.load_state_dict(state)
    with pytest.raises(ValueError, match="question"):
        data(encoder, path, length_targets=LengthTargets(10, 300)).load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"low": 0, "high": 5}, "low and high must be 1 <= low <= high in tokens, got 0 and 5"),
        ({"low": 9, "high": 5}, "got 9 and 5"),
        ({"low": 1, "high": 5, "sentence": "Be brief."}, "sentence must have {tokens} once"),
        ({"low": 1, "high": 5, "sentence": "{tokens} <image>"}, "and no <image>, got"),
        ({"low": 1, "high": 5, "sentence": "{level}"}, "with levels {level} will do"),
        ({"low": 1, "high": 5, "levels": {"long": 6}}, "from low=1 to high=5, got {'long': 6}"),
        ({"low": 1, "high": 5, "levels": {"a": 3, "b": 3}}, "must be different numbers"),
        ({"low": 1, "high": 5, "key": ""}, "length_targets.key must name a key of meta"),
    ],
)
def test_arguments_are_refused_in_one_line(arguments, line):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the whole line is compared)
        LengthTargets(**arguments)
    assert line in str(raised.value)
