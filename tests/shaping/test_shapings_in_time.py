"""Every shaping over the steps of a run: against a loop from its formula, resumed after each step,
and on two and three ranks with uneven groups.

Mutations, each seen red:
    a rate, a bound or a level of a shaping changed -> loop
    the dropped groups of this rank alone learned from; a state in the order of ranks -> ranks
    a number left out of `state_dict` -> resumed
"""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from tests.shaping.test_shapings import MAKERS
from tests.support.shaped import drawn_step, step_of
from tests.support.shaping_oracles import LOOPS, groups_of
from vlm_rl.advantages import Advantage, CANONEntropy, EMANormalized, Normalized, VerdictSigns
from vlm_rl.distributed.gather import Places
from vlm_rl.records import Rollout
from vlm_rl.shaping import Shaping
from vlm_rl.training.credit import Credit

NUM_STEPS = 8


class Course(NamedTuple):
    kept: Rollout
    dropped: Rollout
    monitored: Rollout


def course(seed: int) -> Iterator[Course]:
    """Draw the steps of a run; some keep one group or none."""
    rng = random.Random(seed)
    for step in range(NUM_STEPS):
        sizes = (5, 7, 1, 0, 4, 5, 2, 5)
        parts = (drawn_step(rng, num_groups=n, step=step) for n in (sizes[step], step % 3, 5))
        yield Course(*parts)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("seed", range(3))
def test_shaping_matches_float64_loop_over_steps(name: str, seed: int) -> None:
    own, loop = MAKERS[name](), LOOPS[name]()
    for step, (kept, dropped, monitored) in enumerate(course(seed)):
        groups = groups_of(kept)
        values = own.values(kept) if groups else torch.zeros(0, 4)
        for row, group, wanted in zip(values, groups, loop.values(groups, step), strict=True):
            checked = torch.tensor(group.scored)
            expected = torch.tensor(wanted, dtype=torch.float64)
            torch.testing.assert_close(row[checked], expected[checked], rtol=1e-12, atol=1e-12)
        if own.monitors(step):
            own.learn_monitored(monitored)
            loop.learn_monitored(groups_of(monitored))
        own.learn(kept, dropped)
        loop.learn(groups)
        loop.learn(groups_of(dropped))


def test_every_case_has_a_loop() -> None:
    assert set(LOOPS) == set(MAKERS)


KINDS = {
    "all right": (["rrrr"], [[3, 9, 1, 30]]),
    "all wrong": (["wwww"], [[3, 9, 1, 30]]),
    "equal lengths": (["rwrw"], [[5, 5, 5, 5]]),
    "all right of equal lengths": (["rrrr"], [[5, 5, 5, 5]]),
    "empty": (["rwrw"], [[0, 0, 0, 0]]),
    "unscored": (["uuuu"], [[3, 9, 1, 30]]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MAKERS)
def test_groups_of_one_kind_are_credited_and_learned_from(name: str, kind: str) -> None:
    """Before there is a history, and with one of another kind."""
    marks, lengths = KINDS[kind]
    for before in ([], [step_of(["rrww"], [[4, 8, 2, 2]])]):
        credit = Credit(Normalized(), MAKERS[name]())
        for seen in before:
            credit.learn(seen, Rollout.empty(4), False, seen)
        step = step_of(marks, lengths, step=3)
        credited = credit(step, Places.of([1]), 3)
        assert credited.of_tokens.isfinite().all()
        if kind == "all right of equal lengths":
            assert not credited.advantages.any(), "nothing tells these apart"
        if kind == "unscored":
            assert not credited.rollout.scores.total.any()
        credit.learn(credited.everyone, Rollout.empty(4), False, step)
        json.dumps(credit.state_dict())


class Alone(Shaping):
    """Adds nothing: the advantages by themselves are credited."""

    def __init__(self) -> None:
        super().__init__(1.0)

    def values(self, everyone: Rollout) -> torch.Tensor:
        return torch.zeros_like(everyone.scores.total)


def _credits() -> dict[str, Credit]:
    by_itself: list[Advantage] = [EMANormalized(), CANONEntropy(), VerdictSigns()]
    shaped = {name: Credit(Normalized(), make()) for name, make in MAKERS.items()}
    return shaped | {type(own).__name__: Credit(own, Alone()) for own in by_itself}


def _dealt(rollout: Rollout, rank: int, size: int) -> Rollout:
    return rollout.select(range(rank, len(rollout.prompts), size))


def _run(credit: Credit, rank: int, size: int, resumed: Sequence[Credit] = ()) -> dict[str, Any]:
    """Return each step's rewards and advantages by uid, of this rank, and the state after it.

    With `resumed` another takes the state over before each further step.
    """
    steps: list[Any] = []
    for step, whole in enumerate(course(0)):
        kept, dropped, monitored = (_dealt(part, rank, size) for part in whole)
        counts = [len(_dealt(whole.kept, other, size).prompts) for other in range(size)]
        credited = credit(kept, Places.of(counts), step)
        of_uid = {
            prompt.uid: [total.tolist(), own.tolist()]
            for prompt, total, own in zip(
                credited.rollout.prompts,
                credited.rollout.scores.total,
                credited.of_tokens,
                strict=True,
            )
        }
        credit.learn(credited.everyone, dropped, bool(whole.dropped.prompts), monitored)
        state = json.loads(json.dumps(credit.state_dict()))
        steps.append([of_uid, state])
        if step < len(resumed):
            credit = resumed[step]
            credit.load_state_dict(state)
    return {"steps": steps}


def _rank(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting_{size}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    results = {name: _run(credit, rank, size) for name, credit in _credits().items()}
    Path(folder, f"{size}_{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return {name: _run(credit, 0, 1) for name, credit in _credits().items()}


def test_two_and_three_ranks_credit_and_remember_what_one_does(
    alone: dict[str, Any], tmp_path: Path
) -> None:
    for size in (2, 3):
        start_processes(_rank, (size, tmp_path), nprocs=size, start_method="fork")
        files = [json.loads((tmp_path / f"{size}_{r}.json").read_text()) for r in range(size)]
        for name, result in alone.items():
            for step, (of_uid, state) in enumerate(result["steps"]):
                parts = [file[name]["steps"][step] for file in files]
                merged: dict[str, Any] = {}
                for part, own_state in parts:
                    assert own_state == state, f"{name}, step {step}"
                    merged |= part
                assert merged == of_uid, f"{name}, step {step}, {size} ranks"


def test_run_resumed_after_every_step_is_the_same(alone: dict[str, Any]) -> None:
    again = [_credits() for _ in range(NUM_STEPS)]
    for name, credit in _credits().items():
        resumed = _run(credit, 0, 1, [credits[name] for credits in again])
        assert resumed == alone[name], name
    states = {name: result["steps"][-1][1] for name, result in alone.items()}
    for name in ("HAPO", "CEEH", "LaserD"):
        assert states[name]["shaping"], f"{name} has learned nothing: the test would show nothing"
    assert states["EMANormalized"]["advantage"]
