"""Predictive oversampling: its factor, what a step then has, its state, and the same on any number
of ranks.

Mutations, each seen red:
    a sample's deviation for the population's, the window unbounded, the bounds left out -> factor
    the surplus taken from the front, or kept; the rate after the surplus is gone -> step
    the uids of other ranks not among the used; the surplus chosen by each rank alone -> ranks
    the state left out of the checkpoint, or learned from in `sample_groups` -> goes on
"""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from tests.support.objective_cases import text_prompt
from tests.support.run_helpers import command, rollouts, same, trainer_checkpoint
from vlm_rl.fit import fit
from vlm_rl.records import Completion, Prompt, Rollout, Scores, Verdict
from vlm_rl.run.metrics_csv import read_metrics
from vlm_rl.training import PredictedMixedVerdicts
from vlm_rl.training.dynamic_sampling import Sampled, sample_groups

KEPT = "bdfghk"
"""Uids of problems with mixed verdicts."""
MANY = "efghijklm"
"""Others, which the further problems have and few of the first."""
PROBLEMS = "abcdefghijklmnop"


def _judged(prompts: Sequence[Prompt], kept: str) -> Rollout:
    rows = [
        [Verdict.CORRECT, Verdict.WRONG if prompt.uid in kept else Verdict.CORRECT]
        for prompt in prompts
    ]
    total = torch.zeros(len(prompts), 2, dtype=torch.float64)
    one = Completion(torch.arange(2), torch.zeros(2), "stop", "")
    return Rollout(prompts, [[one, one] for _ in prompts], Scores({}, total, rows, {}))


def _refill(position: int, used: Collection[str]) -> tuple[Prompt, int] | None:
    for index in range(position, len(PROBLEMS)):
        if PROBLEMS[index] not in used:
            return text_prompt(PROBLEMS[index]), index + 1
    return None


def _sample(own: Sequence[str], group_filter: PredictedMixedVerdicts, kept: str = KEPT) -> Sampled:
    return sample_groups(
        [text_prompt(uid) for uid in own],
        lambda prompts, _: _judged(prompts, kept),
        group_filter=group_filter,
        refill=_refill,
        refill_position=0,
    )


def _uids(rollout: Rollout) -> list[str]:
    return [prompt.uid for prompt in rollout.prompts]


def test_factor_golden() -> None:
    own = PredictedMixedVerdicts()
    assert own.factor == 1.5
    own.learn(0.5)
    assert own.factor == 2.0
    own.learn(0.7)  # mean 0.6, deviation 0.1: 1.1 / 0.6
    assert own.factor == pytest.approx(1.1 / 0.6)
    assert own.more_than(128) == int(128 * 1.1 / 0.6) - 128 == 106
    for _ in range(20):
        own.learn(1.0)
    assert own.factor == 1.2, "1 would be enough; the window has forgotten what was before"
    for _ in range(20):
        own.learn(0.0)
    assert own.factor == 5.0
    own.learn(0.1)
    assert own.factor == 5.0


def test_step_asks_for_more_at_once_and_drops_what_is_too_much() -> None:
    # floor(4 x 2.25) = 9: a to i, of which five are kept, the last of them one too many
    sampled = _sample("abcd", PredictedMixedVerdicts(first=2.25))
    assert _uids(sampled.kept) == ["b", "d", "f", "g"]
    assert _uids(sampled.dropped) == ["a", "c", "e", "h", "i"]
    assert sampled.refill_position == 9
    assert sampled.keep_rate == 5 / 9
    assert sampled.any_dropped
    metrics = {name: float(s.sum / s.count) for name, s in sampled.statistics.items()}
    assert metrics["sampling/prompts_spent"] == 9
    assert metrics["sampling/missing_groups"] == 0
    assert metrics["sampling/rounds"] == 1


def test_one_round_may_leave_groups_missing_and_further_ones_ask_for_them() -> None:
    once = _sample("abcd", PredictedMixedVerdicts(first=1.5))
    assert _uids(once.kept) == ["b", "d", "f"]
    assert once.keep_rate == 0.5
    again = _sample("abcd", PredictedMixedVerdicts(max_rounds=9, first=1.5))
    assert _uids(again.kept) == ["b", "d", "f", "g"]
    assert again.refill_position == 7


def _rank(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting_{size}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    results = {}
    for first, rounds in ((2.25, 1), (3.0, 1), (1.2, 9)):
        own = PredictedMixedVerdicts(rounds, first=first)
        sampled = _sample("abcdef"[rank::size], own, MANY)
        results[f"{first}"] = [
            _uids(sampled.kept),
            _uids(sampled.dropped),
            sampled.places.own.tolist(),
            sampled.places.total,
            sampled.refill_position,
            sampled.keep_rate,
        ]
    Path(folder, f"{size}_{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def test_every_number_of_ranks_keeps_the_same_groups(tmp_path: Path) -> None:
    for size in (2, 3):
        start_processes(_rank, (size, tmp_path), nprocs=size, start_method="fork")
    for first, rounds in ((2.25, 1), (3.0, 1), (1.2, 9)):
        alone = _sample("abcdef", PredictedMixedVerdicts(rounds, first=first), MANY)
        assert alone.places.total == 6
        for size in (2, 3):
            files = [tmp_path / f"{size}_{rank}.json" for rank in range(size)]
            parts = [json.loads(file.read_text())[f"{first}"] for file in files]
            assert sorted(u for part in parts for u in part[0]) == sorted(_uids(alone.kept))
            assert sorted(u for part in parts for u in part[1]) == sorted(_uids(alone.dropped))
            assert sorted(p for part in parts for p in part[2]) == list(range(alone.places.total))
            for part in parts:
                assert part[3:] == [
                    alone.places.total,
                    alone.refill_position,
                    alone.keep_rate,
                ]


OVERSAMPLED: dict[str, Any] = {
    "dynamic_sampling": "vlm_rl.training.PredictedMixedVerdicts",
    "dynamic_sampling.init_args.first": 2.0,
    "group_size": 2,
    "data.prompts_per_step": 4,
    "checkpoint.every_n_steps": 1,
    "validation.every_n_steps": 9,
    "reward.terms": json.dumps(
        {
            "accuracy": {"class_path": "tests.support.run_helpers.FirstTokenEven"},
            "even": {"class_path": "tests.support.run_helpers.EvenTokens"},
        }
    ),
}


def test_run_goes_on_bit_for_bit_with_its_window(
    policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    def run(name: str, steps: int) -> dict[str, Any]:
        fit(command(policy_folder, data_folder, tmp_path / name, **OVERSAMPLED, steps=steps))
        return trainer_checkpoint(tmp_path / name, steps)

    whole = run("whole", 2)
    run("extended", 1)
    extended = run("extended", 2)
    window = whole["vlm_rl"]["dynamic_sampling"]["keep_rates"]
    assert len(window) == 2
    # the run of one step measured at its end too
    measured = [row for row in extended["vlm_rl"]["validation_history"] if row["step"] != 1]
    changed = {"stage_seconds": 0, "validation_history": measured}
    assert extended["vlm_rl"] | changed == whole["vlm_rl"] | {"stage_seconds": 0}
    assert same(extended["state_dict"], whole["state_dict"])
    assert rollouts(tmp_path / "extended") == rollouts(tmp_path / "whole")
    rows = [r for r in read_metrics(tmp_path / "whole/metrics.csv") if "sampling/rounds" in r]
    assert [row["sampling/rounds"] for row in rows] == [1.0] * 2
    spent = [row["sampling/prompts_spent"] for row in rows]
    own = PredictedMixedVerdicts(first=2.0)
    for number, rate in zip(spent, window, strict=True):
        assert number == 4 + own.more_than(4)
        own.learn(rate)


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (lambda: PredictedMixedVerdicts(least=0.9), "1 <= least <= first <= most"),
        (lambda: PredictedMixedVerdicts(first=9.0), "got 1.2, 9.0, 5.0 and 20; the authors have"),
        (lambda: PredictedMixedVerdicts(window=0), "window >= 1"),
        (lambda: PredictedMixedVerdicts(max_rounds=0), "max_rounds must be >= 1, got 0"),
        (lambda: PredictedMixedVerdicts().check_refill(4, 4), "takes all 4 training problems"),
    ],
)
def test_refused(construct: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        construct()
