"""Every length term of the package, with the arguments of the overlay that names it.

A new term is found here; it needs an overlay in `configs/` and an oracle in `length_oracles.py`.

Mutations tried, each seen red: the group of Kimi over completions that were not checked.
"""

import inspect
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import yaml

from tests.support.length_oracles import ORACLES, Seen
from tests.support.places import CONFIGS
from vlm_rl import rewards
from vlm_rl.records import Completion, Problem, Verdict
from vlm_rl.rewards import Judgement, JudgingTerm, Reward, RewardTerm
from vlm_rl.rewards import length as package

TERMS = {
    name: cls
    for name in package.__all__
    if not inspect.isabstract(cls := getattr(package, name)) and issubclass(cls, RewardTerm)
}
SCALE = 50
"""What the published budgets of thousands of tokens are divided by, so that groups stay small."""
IN_TOKENS = {
    *("max_completion_tokens", "buffer_tokens", "target", "max_tokens", "limit", "easy_limit"),
    *("least", "low", "high", "most"),
}


def _classes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if str(node.get("class_path", "")).rpartition(".")[2] in TERMS:
            yield node
        for value in node.values():
            yield from _classes(value)


def overlays() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (overlay, class, arguments) of all overlays, budgets scaled down."""
    for path in sorted([*(CONFIGS / "length").glob("*.yaml"), *(CONFIGS / "objective").glob("*")]):
        for node in _classes(yaml.safe_load(path.read_text())):
            given = {
                key: max(1, value // SCALE) if key in IN_TOKENS else value
                for key, value in node["init_args"].items()
            }
            yield path.stem, node["class_path"].rpartition(".")[2], given


CASES = [(name, given) for _, name, given in overlays()]
CASES += [
    ("LASER", {"target": 20, "bonus": 0.5, "wrong": -0.5, "mode": m, "weight": 1.0})
    for m in ("penalty", "hybrid")
]
CASES += [("SoftOverlong", {"max_completion_tokens": 60, "buffer_tokens": 60, "weight": 1.0})]
every_case = pytest.mark.parametrize(
    ("name", "given"), CASES, ids=[f"{i}-{name}" for i, (name, _) in enumerate(CASES)]
)

Group = list[tuple[Completion, Verdict, Seen]]


def member(
    length: int, verdict: Verdict, *, cut: bool = False, formed: bool = False, seed: int = 0
) -> tuple[Completion, Verdict, Seen]:
    drawn = random.Random(seed)
    entropies = [drawn.random() * (2 if index % 3 else 0.1) for index in range(length)]
    end = drawn.randrange(length) if length and drawn.random() < 0.7 else None
    completion = Completion(
        torch.zeros(length, dtype=torch.int64),
        torch.zeros(length),
        "length" if cut else "stop",
        r"\boxed{5}" if formed else "5",
        entropies=torch.tensor(entropies, dtype=torch.float32),
        thinking_tokens=None if end is None else end + 1,
    )
    right = verdict is Verdict.CORRECT
    uncertain = [float(value) for value in completion.entropies]  # as float32 has them
    seen = Seen(length, right, verdict.scored, cut, formed and not cut, uncertain, end)
    return completion, verdict, seen


def random_group(seed: int) -> Group:
    drawn = random.Random(seed)
    longest = drawn.choice([1, 30, 120, 500])
    return [
        member(
            drawn.choice([0, drawn.randrange(longest), longest]),
            drawn.choice([Verdict.CORRECT, Verdict.CORRECT, *Verdict]),
            cut=drawn.random() < 0.3,
            formed=drawn.random() < 0.5,
            seed=seed * 100 + index,
        )
        for index in range(drawn.randrange(2, 9))
    ]


GROUPS = {
    "equal lengths": [member(40, v, seed=i) for i, v in enumerate([*Verdict, *Verdict])],
    "all wrong": [member(10 * i, Verdict.WRONG, seed=i) for i in range(5)],
    "all right": [member(10 * i, Verdict.CORRECT, formed=True, seed=i) for i in range(5)],
    "all cut off": [member(90, Verdict.WRONG, cut=True, seed=i) for i in range(3)],
    "all empty": [member(0, v, seed=i) for i, v in enumerate(Verdict)],
    "none scored": [member(7 * i, Verdict.TIMEOUT, seed=i) for i in range(3)],
    "one scored": [
        member(3, Verdict.ERROR, seed=1),
        member(9, Verdict.CORRECT, seed=2),
        member(30, Verdict.ERROR, seed=3),
    ],
    **{f"random {seed}": random_group(seed) for seed in range(30)},
}


def problem(seed: int = 0) -> Problem:
    drawn = random.Random(seed)
    low = drawn.randrange(0, 60)
    meta = {"target_length": drawn.randrange(1, 120), "length_range": [low, low + 25]}
    return Problem(f"p{seed}", "How many?", "5", meta=meta)


def values(term: RewardTerm, asked: Problem, group: Group) -> list[float]:
    completions, verdicts = [c for c, _, _ in group], [v for _, v, _ in group]
    result = term.judged([asked], [completions], [verdicts])
    assert result.dtype == torch.float64
    assert result.shape == (1, len(group))
    return result[0].tolist()


def build(name: str, given: dict[str, Any]) -> RewardTerm:
    term = TERMS[name](**given)
    assert isinstance(term, RewardTerm)
    return term


def test_every_term_has_an_overlay_an_oracle_and_a_name_outside():
    assert {name for _, name, _ in overlays()} == TERMS.keys()
    assert ORACLES.keys() == TERMS.keys()
    for name, cls in TERMS.items():
        assert getattr(rewards, name) is cls


@every_case
def test_term_matches_float64_loop(name, given):
    term = build(name, given)
    for seed, (label, group) in enumerate(GROUPS.items()):
        asked = problem(seed)
        wanted = ORACLES[name](given, [seen for _, _, seen in group], asked.meta)
        actual = values(term, asked, group)
        for value, oracle, (_, verdict, _) in zip(actual, wanted, group, strict=True):
            assert math.isfinite(value), label
            assert not verdict.scored or value == pytest.approx(oracle, abs=1e-12), label


@every_case
def test_order_within_a_group_and_other_groups_do_not_matter(name, given):
    term = build(name, given)
    for seed in range(20):
        group, asked = random_group(seed), problem(seed)
        order = random.Random(seed).sample(range(len(group)), len(group))
        alone = values(term, asked, group)
        assert values(term, asked, [group[i] for i in order]) == [alone[i] for i in order]
    groups = [random_group(seed)[:2] for seed in range(6)]
    together = term.judged(
        [problem(seed) for seed in range(6)],
        [[c for c, _, _ in group] for group in groups],
        [[v for _, v, _ in group] for group in groups],
    )
    assert together.tolist() == [values(term, problem(s), g) for s, g in enumerate(groups)]


@every_case
def test_unscored_completions_change_no_other(name, given):
    term = build(name, given)
    for seed in range(20):
        group = random_group(seed)
        changed = [
            one if one[1].scored else member(one[0].token_ids.numel() * 3 + 1, one[1], seed=9)
            for one in group
        ]
        pairs = zip(values(term, problem(), group), values(term, problem(), changed), strict=True)
        scored = [one[1].scored for one in group]
        assert all(a == b for (a, b), known in zip(pairs, scored, strict=True) if known)


class Said(JudgingTerm):
    """Verdicts that are given; right is worth 1."""

    def __init__(self, verdicts: list[list[Verdict]]) -> None:
        super().__init__(1.0)
        self.verdicts = verdicts

    def judge(self, problems: Any, groups: Any) -> Judgement:
        right = [[float(v is Verdict.CORRECT) for v in row] for row in self.verdicts]
        return Judgement(torch.tensor(right, dtype=torch.float64), self.verdicts)


@every_case
def test_term_is_a_part_of_a_reward(name, given):
    """It is given the verdicts that count; a factor is in [0, 1] and takes from what is right."""
    term = build(name, given)
    for seed in range(10):
        group, asked = random_group(seed), problem(seed)
        completions, verdicts = [c for c, _, _ in group], [v for _, v, _ in group]
        place: Any = {"factors": {"own": term}} if term.shrinks else {"length": term}
        with Reward({"right": Said([verdicts])}, max_unscored_frac=1.0, **place) as reward:
            scores = reward([asked], [completions])
        assert reward.reads_policy == term.reads_policy
        own = values(term, asked, group)
        for total, value, verdict in zip(scores.total[0].tolist(), own, verdicts, strict=True):
            if term.shrinks:
                assert 0 <= value <= 1
                assert total == pytest.approx(value if verdict is Verdict.CORRECT else 0)
            elif verdict.scored:
                assert total == pytest.approx((verdict is Verdict.CORRECT) + term.weight * value)
            else:
                assert total == 0


@every_case
def test_right_is_worth_more_than_wrong_in_the_same_form(name, given):
    """Beside an accuracy of 1; PEAR excepted, which may take more than 1 from a right answer."""
    term = build(name, given)
    for length in (0, 1, 20, 60, 99):
        pair = [member(length, Verdict.CORRECT), member(length, Verdict.WRONG)]
        right, wrong = values(term, problem(), pair)
        if term.shrinks:
            assert right >= wrong
        elif name != "PEAR":
            assert 1 + right > wrong
