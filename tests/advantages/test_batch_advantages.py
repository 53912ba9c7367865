"""Advantages that read lengths, tasks, reward terms or the whole step. Every advantage of the
package on groups without a signal and on 10,000 random groups.

Mutations, each seen red:
    the whitening without lengths -> golden, loop
    groups without a signal whitened too -> all-equal
    ties of ranks not shared, or only exact ties -> goldens of the ranks
    the halves of CANON swapped, an unstable sort -> CANON golden, ties
    a reward term without its weight -> ComponentNormalized loop
"""

import inspect
import json
import math
import random
from statistics import NormalDist, mean, stdev

import pytest
import torch
from torch import Tensor

from tests.support.objective_cases import text_prompt
from tests.support.parameters import also_long
from vlm_rl import advantages
from vlm_rl.advantages import (
    CANON,
    Advantage,
    BatchNormalized,
    CANONEntropy,
    Centered,
    ComponentNormalized,
    EMANormalized,
    LeaveOneOut,
    LengthWeightedBaseline,
    MaxRL,
    Normalized,
    OneWinner,
    RankGaussian,
    VerdictSigns,
    Whitened,
    WhitenedWithBonus,
    gaussian_ranks,
)
from vlm_rl.records import Completion, Problem, Prompt, Rollout, Scores, Verdict

ALL = [
    Normalized(),
    Normalized("population"),
    Centered(),
    LeaveOneOut(),
    LengthWeightedBaseline(),
    OneWinner(),
    MaxRL(),
    CANON(),
    CANON("batch_error", 0.9),
    CANONEntropy(),
    CANONEntropy("batch_error", 0.9),
    BatchNormalized(),
    EMANormalized(),
    VerdictSigns(),
    Whitened(),
    WhitenedWithBonus(0.1, 0.5),
    ComponentNormalized(),
    RankGaussian(),
    RankGaussian("task"),
    RankGaussian("group"),
]
every_advantage = pytest.mark.parametrize("advantage", ALL, ids=lambda a: type(a).__name__)


def prompt_of(uid: str, task: str) -> Prompt:
    plain = text_prompt(uid)
    return Prompt(
        Problem(uid, "question", "answer", task=task),
        plain.token_ids,
        plain.unexpanded_ids,
        plain.positions,
        None,
        None,
        (),
    )


def completion_of(length: int, entropy: float | None = None) -> Completion:
    """Return one whose tokens all have an entropy of `entropy`, by default of its length."""
    entropies = torch.full((length,), float(length if entropy is None else entropy))
    ids = torch.zeros(length, dtype=torch.int64)
    return Completion(ids, torch.zeros(length), "stop", "", entropies=entropies)


def rollout_of(
    rewards: list[list[float]] | Tensor,
    lengths: list[list[int]] | None = None,
    scored: Tensor | None = None,
    tasks: list[str] | None = None,
    terms: dict[str, list[list[float]]] | None = None,
    weights: dict[str, float] | None = None,
) -> Rollout:
    """Return groups with the given rewards; a reward above 1/2 is correct."""
    total = torch.as_tensor(rewards, dtype=torch.float64)
    lengths = lengths or [
        [1 + (i + j) % 3 for j in range(total.shape[1])] for i in range(len(total))
    ]
    scored = torch.ones_like(total, dtype=torch.bool) if scored is None else scored
    verdicts = [
        [
            Verdict.TIMEOUT if not known else Verdict.CORRECT if reward > 0.5 else Verdict.WRONG
            for reward, known in zip(row, valid, strict=True)
        ]
        for row, valid in zip(total.tolist(), scored.tolist(), strict=True)
    ]
    groups = [[completion_of(n) for n in row] for row in lengths]
    named = {name: torch.tensor(term, dtype=torch.float64) for name, term in (terms or {}).items()}
    named = named or {"accuracy": total}
    weights = weights or dict.fromkeys(named, 1.0)
    prompts = [prompt_of(str(i), task) for i, task in enumerate(tasks or [""] * len(total))]
    return Rollout(prompts, groups, Scores(named, total, verdicts, weights))


def test_every_advantage_is_here():
    actual = {
        cls
        for _, cls in inspect.getmembers(advantages, inspect.isclass)
        if issubclass(cls, Advantage) and not inspect.isabstract(cls)
    }
    assert actual == {type(advantage) for advantage in ALL}


def learns_from_equal(advantage: Advantage) -> bool:
    if isinstance(advantage, CANONEntropy):
        return advantage.low_weight < 1
    if isinstance(advantage, CANON):
        return advantage.long_weight < 1
    return isinstance(advantage, VerdictSigns)


@pytest.mark.parametrize(
    "advantage",
    [advantage for advantage in ALL if not learns_from_equal(advantage)],
    ids=lambda a: type(a).__name__,
)
@pytest.mark.parametrize("reward", [0.9, 1 / 3, 0.35, 0.0])
def test_all_equal_group_is_exactly_zero_beside_another(advantage, reward):
    for size in (2, 3, 5, 8, 16, 32):
        equal = torch.full((1, size), reward, dtype=torch.float32).double()
        other = torch.arange(size, dtype=torch.float64)[None] / size
        actual = advantage(rollout_of(torch.cat([equal, other, equal])))
        assert torch.equal(actual[[0, 2]], torch.zeros(2, size, dtype=torch.float64))
        assert actual[1].any()


@every_advantage
def test_singleton_groups_and_empty_completions_are_zero(advantage):
    assert advantage(rollout_of([[0.7], [0.2]])).tolist() == [[0.0], [0.0]]
    empty = advantage(rollout_of([[1.0, 1.0], [0.0, 0.0]], lengths=[[0, 0], [0, 0]]))
    assert learns_from_equal(advantage) or not empty.any()
    assert advantage(rollout_of([[1.0, 0.0]], lengths=[[0, 0]])).isfinite().all()


@every_advantage
def test_unscored_completions_get_zero_and_change_no_other(advantage):
    scored = torch.tensor([[True, False, True, True], [True, True, True, False]])
    rewards = [[1.0, 0.0, 0.2, 0.6], [0.0, 1.0, 0.4, 0.0]]
    changed = [[1.0, 9.0, 0.2, 0.6], [0.0, 1.0, 0.4, 5.0]]
    actual = [advantage(rollout_of(values, scored=scored)) for values in (rewards, changed)]
    assert torch.equal(actual[0], actual[1])
    assert not actual[0][~scored].any()


@pytest.mark.parametrize("count", [200, also_long(3334)])
@every_advantage
def test_random_groups_are_finite(advantage, count):
    generator = torch.Generator().manual_seed(0)
    for size in (2, 4, 8):
        rewards = torch.randint(0, 3, (count, size), generator=generator).double() / 2
        rewards += 1e-9 * torch.rand((count, size), generator=generator, dtype=torch.float64)
        lengths = torch.randint(0, 40, (count, size), generator=generator).tolist()
        scored = torch.rand((count, size), generator=generator) < 0.95
        tasks = [str(index % 3) for index in range(count)]
        actual = advantage(rollout_of(rewards, lengths, scored, tasks))
        assert actual.dtype == torch.float64
        assert actual.isfinite().all()
        assert not actual[~scored].any()


@every_advantage
def test_order_within_a_group_does_not_matter(advantage):
    rewards = [[1.0, 0.0, 0.25, 0.5], [0.0, 1.0, 0.75, 0.1]]
    lengths = [[3, 5, 2, 9], [4, 1, 7, 2]]
    order = [2, 0, 3, 1]
    actual = advantage(rollout_of(rewards, lengths))
    moved = advantage(
        rollout_of(
            [[row[i] for i in order] for row in rewards], [[r[i] for i in order] for r in lengths]
        )
    )
    torch.testing.assert_close(moved, actual[:, order], rtol=1e-12, atol=1e-12)


def test_batch_normalized_matches_loop():
    rewards = [[1.0, 0.0, 0.5], [0.0, 0.0, 0.2]]
    scale = stdev([value for row in rewards for value in row]) + 1e-4
    expected = [[(value - mean(row)) / scale for value in row] for row in rewards]
    for actual, wanted in zip(BatchNormalized()(rollout_of(rewards)), expected, strict=True):
        assert actual.tolist() == pytest.approx(wanted, abs=1e-12)


def test_whitened_golden():
    # lengths 2, 4, 3, 1 and rewards 1, 0, 0, 1: centred +-0.5, token mean (3 - 7) / 2 / 10 = -0.2,
    # unbiased variance (3 x 0.49 + 7 x 0.09) / 9 = 0.233333: 0.7 / 0.483046 and -0.3 / 0.483046
    actual = Whitened()(rollout_of([[1.0, 0.0, 0.0, 1.0]], [[2, 4, 3, 1]]))[0].tolist()
    assert actual == pytest.approx([1.449138, -0.621059, -0.621059, 1.449138], abs=1e-6)


def test_whitened_with_bonus_adds_it_to_whole_right_answers_of_groups_with_a_signal():
    rewards = [[1.0, 0.1, 0.0, 1.0 - 1e-6], [1.0, 1.0, 1.0, 1.0]]
    scored = torch.tensor([[True] * 4, [True, True, True, True]])
    plain = Whitened()(rollout_of(rewards, scored=scored))
    actual = WhitenedWithBonus()(rollout_of(rewards, scored=scored))
    wanted = torch.tensor([[0.1, 0, 0, 0.1], [0, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(actual - plain, wanted, rtol=0, atol=1e-12)
    for arguments in ({"bonus": 0.0}, {"bonus_from": math.inf}):
        (name,) = arguments
        with pytest.raises(ValueError, match=f"WhitenedWithBonus.{name} must be above 0 and fin"):
            WhitenedWithBonus(**arguments)


def test_component_normalized_matches_loop():
    rng = random.Random(0)
    terms = {name: [[rng.random() for _ in range(4)] for _ in range(3)] for name in ("a", "b")}
    terms["b"][1] = [0.5] * 4
    weights = {"a": 0.7, "b": 0.2}
    sums = [[0.0] * 4 for _ in range(3)]
    for name, weight in weights.items():
        for row, values in enumerate(terms[name]):
            spread = stdev(values)
            for column, value in enumerate(values):
                sums[row][column] += (
                    weight * (value - mean(values)) / (spread + 1e-6) if spread else 0
                )
    flat = [value for row in sums for value in row]
    expected = [[(v - mean(flat)) / (stdev(flat) + 1e-6) for v in row] for row in sums]
    total = [
        [0.7 * a + 0.2 * b for a, b in zip(*rows, strict=True)]
        for rows in zip(terms["a"], terms["b"], strict=True)
    ]
    actual = ComponentNormalized()(rollout_of(total, terms=terms, weights=weights))
    for row, wanted in zip(actual, expected, strict=True):
        assert row.tolist() == pytest.approx(wanted, abs=1e-12)


def test_length_weighted_baseline_golden():
    # lengths 2, 4, 3, 1, rewards 1, 0, 0, 1: baseline (2 + 1) / 10
    actual = LengthWeightedBaseline()(rollout_of([[1.0, 0.0, 0.0, 1.0]], [[2, 4, 3, 1]]))[0]
    assert actual.tolist() == pytest.approx([0.7, -0.3, -0.3, 0.7])


def test_one_winner_golden():
    # rewards 0, 1, 0.5: (1 - 0.5) / (0.5 + 1e-6); two winners: all 0
    assert OneWinner()(rollout_of([[0.0, 1.0, 0.5]]))[0].tolist() == pytest.approx([0, 0.999998, 0])
    assert not OneWinner()(rollout_of([[1.0, 1.0, 0.0]])).any()


def test_max_rl_golden_and_refusal():
    # mean 1/4: (1 - 1/4) / (1/4) = 3, (0 - 1/4) / (1/4) = -1
    assert MaxRL()(rollout_of([[1.0, 0.0, 0.0, 0.0]]))[0].tolist() == pytest.approx([3, -1, -1, -1])
    with pytest.raises(ValueError, match=r"MaxRL divides by the mean reward and got .* -0.5"):
        MaxRL()(rollout_of([[1.0, -0.5]]))


# sorted by length 1, 1, 1, 0: halves (1, 1) and (1, 0)
CANON_GOLDEN = {
    1.0: [0.5, 0.5, 0.0, -1.0],
    0.0: [0.0, 0.0, 0.5, -0.5],
    0.5: [0.25, 0.25, 0.25, -0.75],
}


@pytest.mark.parametrize("mu", CANON_GOLDEN)
def test_canon_golden(mu):
    actual = CANON(mu)(rollout_of([[0.0, 1.0, 1.0, 1.0]], [[9, 2, 3, 5]]))[0].tolist()
    expected = CANON_GOLDEN[mu]
    assert actual == pytest.approx([expected[3], *expected[:3]])


@pytest.mark.parametrize("reward", [1.0, 0.9, 1 / 3, 0.0])
@pytest.mark.parametrize("mu", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("size", [2, 3, 8])
def test_canon_with_a_long_weight_learns_from_equal_rewards(reward, mu, size):
    """The authors' code gives a group of four right answers +0.1, +0.1, -0.1, -0.1 at alpha 0.9."""
    lengths = random.Random(size).sample(range(1, 100), size)
    actual = CANON(mu, 0.9)(rollout_of([[reward] * size], [lengths]))[0]
    short = torch.tensor([sorted(lengths).index(n) < size // 2 for n in lengths])
    expected = torch.where(short, 1.0, -1.0).double() * mu * 0.1 * reward
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-15)
    assert not CANON(mu, 0.9)(rollout_of([[0.0] * size], [lengths])).any()
    assert not CANON(mu)(rollout_of([[reward] * size], [lengths])).any()


def test_canon_schedules_weights_and_ties():
    rollout = rollout_of([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]], [[1, 2, 3, 4]] * 2)
    assert torch.equal(CANON("batch_accuracy")(rollout), CANON(0.5)(rollout))
    lower = rollout_of([[1.0, 0.0, 0.0, 0.0]], [[1, 2, 3, 4]])
    assert torch.equal(CANON("batch_accuracy")(lower), CANON(0.25)(lower))
    assert torch.equal(CANON("batch_error")(lower), CANON(0.75)(lower))
    # alpha 0.9: short 1 - 0.9 x 0.5 = 0.55, long 0.9 x 1 - 1 = -0.1 and 0 - 1
    weighted = CANON(1.0, 0.9)(rollout_of([[1.0, 1.0, 1.0, 0.0]], [[1, 2, 3, 4]]))[0].tolist()
    assert weighted == pytest.approx([0.55, 0.55, -0.1, -1.0])
    # of equal lengths, the first two of the group are the short half
    tied = CANON(1.0)(rollout_of([[1.0, 0.0, 0.0, 0.0]], [[5, 5, 5, 5]]))[0].tolist()
    assert tied == pytest.approx([1.0, 0.0, -0.5, -0.5])


RANKS = [
    ([0, 0, 0, 0, 1], [-0.3204] * 4 + [1.2816]),
    ([0, 0, 1, 1, 1], [-0.903] * 2 + [0.602] * 3),
    ([0.1, 0.1, 0.1, 0.2, 1], [-0.602] * 3 + [0.5244, 1.2816]),
    ([0.81, 0.81, 0.82, 0.82, 0.83], [-0.903] * 2 + [0.2622] * 2 + [1.2816]),
]


@pytest.mark.parametrize(("values", "expected"), RANKS)
def test_gaussian_ranks_golden(values, expected):
    # quantiles of (k - 1/2) / 5: -+1.2816, -+0.5244, 0; ties take their mean
    actual = gaussian_ranks(torch.tensor(values, dtype=torch.float64)).tolist()
    assert actual == pytest.approx(expected, abs=5e-5)
    assert gaussian_ranks(torch.zeros(1, dtype=torch.float64)).tolist() == [0.0]
    # 0.1 + 0.2 is 0.30000000000000004
    tied = gaussian_ranks(torch.tensor([0.1 + 0.2, 0.3, 1.0], dtype=torch.float64)).tolist()
    assert tied[0] == tied[1]


def test_gaussian_ranks_match_loop():
    rng = random.Random(1)
    values = [rng.choice([0.0, 0.1, 0.2, rng.random()]) for _ in range(50)]
    order = sorted(range(50), key=values.__getitem__)
    quantile = {i: NormalDist().inv_cdf((k + 0.5) / 50) for k, i in enumerate(order)}
    expected = [mean(quantile[j] for j in range(50) if values[j] == values[i]) for i in range(50)]
    actual = gaussian_ranks(torch.tensor(values, dtype=torch.float64)).tolist()
    assert actual == pytest.approx(expected, abs=1e-9)


def test_rank_gaussian_golden():
    # one task, rewards 1 0 0 1 and 1 0 0 0: within the groups +-0.7345, and 1.1503, -0.3834 x 3
    groups = [[1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]]
    within = RankGaussian("group")(rollout_of(groups))
    assert within[0].tolist() == pytest.approx([0.7345, -0.7345, -0.7345, 0.7345], abs=5e-5)
    assert within[1].tolist() == pytest.approx([1.1503, *[-0.3834] * 3], abs=5e-5)
    twice = RankGaussian()(rollout_of(groups))
    assert twice[0].tolist() == pytest.approx([0.688, -1.2106, -1.2106, 0.688], abs=5e-5)
    assert twice[1].tolist() == pytest.approx([1.5341, *[-0.1629] * 3], abs=5e-5)
    pooled = RankGaussian("task")(rollout_of(groups))
    assert pooled.flatten().tolist() == pytest.approx(
        [0.97, -0.582, -0.582, 0.97, 0.97, -0.582, -0.582, -0.582], abs=5e-4
    )
    apart = RankGaussian()(rollout_of(groups, tasks=["chart", "counting"]))
    torch.testing.assert_close(apart, within, rtol=0, atol=1e-9)


def test_goldens_are_the_shared_ones(shared):
    worked = json.loads((shared / "reference" / "worked_examples.json").read_text())
    assert worked["canon R=[1,1,1,0] sorted by L"]["inter"] == CANON_GOLDEN[1.0]
    assert worked["canon R=[1,1,1,0] sorted by L"]["intra"] == CANON_GOLDEN[0.0]
    assert worked["reinforce++ baseline (fixture)"]["A correct"] == 1.449138
    for values, expected in RANKS:
        name = json.dumps([float(values[0]), *values[1:]])
        assert worked["g2rpo"][name] == expected


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (lambda: CANON(1.5), r"CANON.mu must be in \[0, 1\], got 1.5"),
        (lambda: CANON(0.5, 0.0), r"CANON.long_weight must be in \(0, 1\], got 0.0"),
        (lambda: BatchNormalized(-1.0), "epsilon must be >= 0, got -1.0"),
        (lambda: OneWinner(math.nan), "epsilon must be >= 0, got nan"),
    ],
)
def test_advantage_refuses(construct, message):
    with pytest.raises(ValueError, match=message):
        construct()
