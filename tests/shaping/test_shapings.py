"""Each shaping against its worked example and a loop over the formula, and all on drawn steps.

Mutations, each seen red: see the end of each name in `test_shapings` of the commit that adds it.
"""

import inspect
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.shaped import NOTHING, drawn_step, step_of
from vlm_rl import shaping
from vlm_rl.records import Rollout
from vlm_rl.rewards import LengthTrapezoid
from vlm_rl.shaping import CEEH, HAPO, GRPOLambda, LaserD, Scheduled, Shaping
from vlm_rl.training import MixedVerdicts, SomeCorrect

SMALL = {"first_target": 8, "least": 2, "most": 10, "stride": 2, "monitor_every": 2}
MAKERS: dict[str, Callable[[], Shaping]] = {
    "HAPO": HAPO,
    "GRPOLambda": lambda: GRPOLambda(0.6, share=0.5),
    "LaserD": lambda: LaserD(**SMALL),
    "LaserDE": lambda: LaserD(**SMALL, explore=True),
    "CEEH": lambda: CEEH(entropy_steps=10),
    "Scheduled": lambda: Scheduled(LengthTrapezoid(1, 2, 9, 20), {1: 0.5, 5: 1.0}, "linear"),
}
every_shaping = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def learned(shaping: Shaping, steps: int, seed: int = 0) -> Shaping:
    rng = random.Random(seed)
    for step in range(steps):
        if shaping.monitors(step):
            shaping.learn_monitored(drawn_step(rng, step=step))
        shaping.learn(drawn_step(rng, step=step), drawn_step(rng, step=step))
    return shaping


def test_every_shaping_is_here():
    actual = {
        cls
        for _, cls in inspect.getmembers(shaping, inspect.isclass)
        if issubclass(cls, Shaping) and not inspect.isabstract(cls)
    }
    assert actual == {type(make()) for make in MAKERS.values()}


@every_shaping
def test_values_are_finite_pure_and_of_each_group_alone_or_of_the_whole_step(make):
    rng, own = random.Random(1), learned(make(), 4)
    before = json.dumps(own.state_dict())
    for step in range(30):
        everyone = drawn_step(rng, step=step)
        values = own.values(everyone)
        assert values.dtype == torch.float64
        assert values.shape == everyone.scores.total.shape
        assert values.isfinite().all()
        advantages = own.advantages(values.clone(), everyone)
        assert advantages.isfinite().all()
        assert torch.equal(own.values(everyone), values)
    assert json.dumps(own.state_dict()) == before


@every_shaping
def test_order_of_completions_moves_values_and_nothing_else(make):
    own = learned(make(), 4)
    everyone = drawn_step(random.Random(2), step=3)
    order = [2, 0, 3, 1]
    moved = Rollout(
        everyone.prompts,
        [[group[i] for i in order] for group in everyone.groups],
        type(everyone.scores)(
            {},
            everyone.scores.total[:, order],
            [[row[i] for i in order] for row in everyone.scores.verdicts],
            {},
        ),
        everyone.step,
    )
    torch.testing.assert_close(own.values(moved), own.values(everyone)[:, order])
    twin = learned(make(), 4)
    own.learn(everyone, NOTHING)
    twin.learn(moved, NOTHING)
    assert own.state_dict() == twin.state_dict()


@every_shaping
def test_state_goes_through_json_and_back(make):
    own, other = learned(make(), 4), make()
    other.load_state_dict(json.loads(json.dumps(own.state_dict())))
    assert other.state_dict() == own.state_dict()
    everyone = drawn_step(random.Random(3), step=4)
    assert torch.equal(other.values(everyone), own.values(everyone))


@every_shaping
def test_step_without_kept_groups_is_learned_from(make):
    own = make()
    own.learn(NOTHING, step_of(["rrww"], [[3, 4, 5, 6]]))
    assert own.values(step_of(["rrww"], [[3, 4, 5, 6]])).isfinite().all()


def test_hapo_golden():
    own = HAPO()
    assert own.values(step_of(["rw"], [[5, 5]])).tolist() == [[0.0, 0.0]]
    own.learn(step_of(["rrw"], [[1200, 1000, 1]]), NOTHING)
    right = own.values(step_of(["rrrr"], [[250, 1000, 1500, 2500]]))
    wrong = own.values(step_of(["wwww"], [[250, 1000, 1500, 2500]]))
    assert right[0].tolist() == pytest.approx([0.923880, 0.0, -0.7, -0.7], abs=1e-6)
    assert wrong[0].tolist() == pytest.approx([0.0, 0.0, -0.707107, -1.0], abs=1e-6)


def test_hapo_remembers_the_shortest_also_of_dropped_groups():
    own = HAPO()
    own.learn(step_of(["rw"], [[7, 1]]), step_of(["rr", "ww"], [[5, 4], [1, 1]], uids=["b", "c"]))
    own.learn(step_of(["rr"], [[0, 9]]), NOTHING)
    assert own.shortest == {"p0": 7, "b": 4}


def test_grpo_lambda_golden():
    own = GRPOLambda(weight=0.6, share=0.5)
    everyone = step_of(["rrww", "rrrw", "wwww"], [[9, 9, 9, 9], [100, 200, 300, 5], [1, 2, 3, 4]])
    values = 1 + own.weight * own.values(everyone)[1, :3]
    assert values.tolist() == pytest.approx([0.838635, 0.7, 0.561365], abs=1e-6)
    assert not own.values(everyone)[[0, 2]].any()
    assert own.values(everyone)[1, 3] == 0


def test_grpo_lambda_counts_what_could_be_checked_and_pays_equal_lengths_alike():
    own = GRPOLambda(weight=1.0, share=0.5)
    everyone = step_of(["rruu", "rrrw"], [[4, 4, 4, 4], [1, 2, 3, 4]])
    assert own.values(everyone).tolist() == [[-0.5, -0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]


def test_laser_d_targets():
    own = LaserD(first_target=8, least=2, most=10, stride=2)
    easy = ["rrrrrrrw"] * 5
    lengths = [[2] * 8, [4] * 8, [6] * 8, [8] * 8, [10] * 8]
    own.learn_monitored(step_of(easy, lengths))
    assert own.targets["easy"] == 2, "5 expected right answers: a fifth of all must fit"
    own.learn_monitored(step_of(["rrrrwwww"] * 5, lengths))
    assert own.targets["medium"] == 6, "2 expected: half of all must fit"
    own.learn_monitored(step_of(["rwwwwwww"] * 5, lengths))
    assert own.targets["hard"] == 10, "1 expected: all must fit"
    own.learn_monitored(step_of(["rwwwwwww"], [[30] * 7 + [44]]))
    assert own.targets == {"easy": 2, "medium": 6, "hard": 44}
    values = own.values(step_of(["rrrrrrrw", "rwwwwwww"], [[2, 3, *[1] * 6], [44, *[50] * 7]]))
    assert values.tolist() == [[1, 0, 1, 1, 1, 1, 1, -1], [1, *[-1] * 7]]


def test_laser_de_forgives_long_wrong_answers_that_do_not_repeat_themselves():
    own = LaserD(first_target=50, explore=True, ngram=3, max_repeated=0.2)
    everyone = step_of(["wwww"], [[60, 50, 60, 60]])
    same = torch.zeros(60, dtype=torch.int64)
    everyone.groups[0][2].token_ids.copy_(same)
    assert own.values(everyone).tolist() == [[0.0, -1.0, -1.0, 0.0]]


def test_laser_d_monitors_now_and_then():
    own = LaserD(monitor_every=20, monitor_problems=7)
    assert [step for step in range(61) if own.monitors(step)] == [20, 40, 60]
    assert own.monitors(20) == 7


def test_ceeh_golden():
    own = CEEH()
    own.learn(step_of(["rrww"], [[1000, 1200, 1, 1]]), NOTHING)
    assert own.records["p0"].length == 1000
    assert own.records["p0"].accuracy == pytest.approx(-1 + 0.2 * 1.5)
    values = own.weight * own.values(step_of(["rrrr"], [[500, 1000, 1500, 4000]]))[0]
    assert values.tolist() == pytest.approx([0.25, 0.0, -0.25, -0.9], abs=1e-6)
    own.records["p0"].accuracy = 0.6
    assert not own.values(step_of(["rrww"], [[500, 500, 500, 500]])).any(), "worse than it was"
    own.learn(step_of(["rrww"], [[800, 900, 1, 1]]), NOTHING)
    assert own.records["p0"].length == pytest.approx(1000 + 0.2 * (800 - 1000))
    assert own.records["p0"].accuracy == pytest.approx(0.6 + 0.05 * (0.5 - 0.6))
    own.learn(step_of(["rrrr"], [[2000] * 4]), NOTHING)
    assert own.records["p0"].length == pytest.approx(960 + 0.05 * (2000 - 960))


def test_ceeh_opens_hard_problems_by_entropy_within_half_of_the_advantage():
    own = CEEH(entropy_gain=0.4, entropy_steps=10)
    own.learn(step_of(["rrrr", "wwww"], [[4] * 4, [4] * 4], uids=["easy", "hard"]), NOTHING)
    everyone = step_of(["rrrr", "wwwr"], [[2] * 4, [2, 3, 0, 1]], uids=["easy", "hard"], step=5)
    for record in own.records.values():
        record.accuracy = 0.5
    advantages = torch.tensor([[0.0, 1, -1, 2], [-0.3, -1.0, 1.0, 0.0]]).double()
    changed = own.advantages(advantages, everyone)
    assert changed.shape == (2, 4, 3)
    assert torch.equal(changed[0], advantages[0, :, None].expand(4, 3))
    loop = [
        [
            a + 0.5 * min(0.4 * 0.5 * (t + 1) if t < n else 0.0, abs(a) / 2) if t < 3 else a
            for t in range(3)
        ]
        for a, n in zip(advantages[1].tolist(), [2, 3, 0, 1], strict=True)
    ]
    torch.testing.assert_close(changed[1], torch.tensor(loop, dtype=torch.float64))
    assert own.advantages(advantages, step_of(["wwww"], [[1] * 4], step=10)) is advantages


def test_scheduled_weights():
    term = LengthTrapezoid(1, 2, 9, 20)
    stage = Scheduled(term, {300: 0.5})
    assert [stage.weight_at(step) for step in (0, 299, 300, 900)] == [0.0, 0.0, 0.5, 0.5]
    ramp = Scheduled(term, {10: 0.0, 20: 1.0, 40: 0.5}, "linear")
    weights = [ramp.weight_at(step) for step in (0, 10, 15, 20, 30, 40, 99)]
    assert weights == [0.0, 0.0, 0.5, 1.0, 0.75, 0.5, 0.5]
    everyone = step_of(["rw"], [[5, 20]], step=15)
    assert ramp.values(everyone).tolist() == [[0.5, 0.0]]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HAPO(weight=0.0), "HAPO.weight must be positive"),
        (lambda: HAPO(floor=0.1), "HAPO.floor"),
        (lambda: GRPOLambda(1.0, share=0.0), "GRPOLambda.share"),
        (lambda: LaserD(least=9, most=8), "least <= most"),
        (lambda: LaserD(max_repeated=2.0), "max_repeated"),
        (lambda: CEEH(rate_up=0.0), "CEEH.rate_up"),
        (lambda: CEEH(entropy_gain=-1.0), "entropy_gain >= 0"),
        (lambda: Scheduled(LengthTrapezoid(1, 2, 9, 20), {}), "Scheduled.weights"),
        (lambda: Scheduled(LengthTrapezoid(1, 2, 9, 20, weight=2.0), {1: 1.0}), "of weight 1"),
    ],
)
def test_arguments_that_make_no_sense_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_filters_of_verdicts():
    everyone = step_of(["rrrr", "rwww", "wwww", "uuuu", "ruuu"], [[1] * 4] * 5)
    assert MixedVerdicts().keep(everyone).tolist() == [False, True, False, False, False]
    assert SomeCorrect().keep(everyone).tolist() == [True, True, False, False, True]


def test_worked_examples_of_the_reference(shared: Path) -> None:
    examples: dict[str, Any] = json.loads((shared / "reference/worked_examples.json").read_text())
    own = CEEH()
    own.learn(step_of(["r"], [[1000]]), NOTHING)
    for length, value in examples["ceeh L*=1000 scale=.5"].items():
        actual = own.weight * float(own.values(step_of(["r"], [[int(length)]])))
        assert math.isclose(actual, value, abs_tol=1e-9)
