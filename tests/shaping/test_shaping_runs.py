"""Whole runs with a shaping: what it adds, what it learns, and a restart in the middle.

Mutations, each seen red: the state left out of the checkpoint; a step that is not learned from.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.run_helpers import (
    REWARD_TERMS,
    build_module,
    command,
    problems,
    rollouts,
    run_module,
    same,
    trainer_checkpoint,
)
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.fit import fit
from vlm_rl.model.policy import Policy
from vlm_rl.records import Rollout
from vlm_rl.run.metrics_csv import read_metrics
from vlm_rl.shaping import Shaping

JUDGED = json.dumps(
    REWARD_TERMS | {"accuracy": {"class_path": "tests.support.run_helpers.FirstTokenEven"}}
)
CEEH = {"class_path": "vlm_rl.shaping.CEEH", "init_args": {"weight": 0.5, "rate_up": 1.0}}
LASER_D = {
    "class_path": "vlm_rl.shaping.LaserD",
    "init_args": {
        "weight": 0.5,
        "first_target": 6,
        "least": 2,
        "most": 12,
        "stride": 1,
        "monitor_every": 2,
        "monitor_problems": 5,
        "explore": True,
    },
}


def run(
    folder: Path, policy: Path, data: Path, shaping: dict[str, Any], *more: str, steps: int = 4
) -> dict[str, Any]:
    """Run to `steps` on five problems, which come again; return what the checkpoint then holds."""
    few = data / "five.jsonl"
    few.write_text("".join((data / "train.jsonl").read_text().splitlines(keepends=True)[:5]))
    fit(
        command(
            policy,
            data,
            folder,
            f"--shaping={json.dumps(shaping)}",
            *more,
            data__train=json.dumps([{"path": str(few)}]),
            reward__terms=JUDGED,
            steps=steps,
            checkpoint__every_n_steps=2,
            validation__every_n_steps=2,
        )
    )
    return trainer_checkpoint(folder, steps)


FILTER = "--dynamic_sampling=vlm_rl.training.MixedVerdicts"


@pytest.mark.parametrize(
    ("shaping", "more"),
    [
        pytest.param(CEEH, (FILTER,), id="CEEH"),
        pytest.param(LASER_D, (), id="LaserD", marks=pytest.mark.long),
    ],
)
def test_run_goes_on_bit_for_bit_with_its_state(
    shaping: dict[str, Any],
    more: tuple[str, ...],
    tmp_path: Path,
    policy_folder: Path,
    data_folder: Path,
) -> None:
    given = (policy_folder, data_folder, shaping, *more)
    whole = run(tmp_path / "whole", *given)
    run(tmp_path / "extended", *given, steps=2)
    extended = run(tmp_path / "extended", *given)
    assert extended["vlm_rl"]["credit"] == whole["vlm_rl"]["credit"]
    assert whole["vlm_rl"]["credit"]["shaping"]
    assert same(extended["state_dict"], whole["state_dict"])
    assert same(extended["optimizer_states"], whole["optimizer_states"])
    half = trainer_checkpoint(tmp_path / "extended", 2)["vlm_rl"]["credit"]
    assert half != whole["vlm_rl"]["credit"], "it learns in each step"
    rows = [row for row in read_metrics(tmp_path / "whole/metrics.csv") if "policy/loss" in row]
    assert shaping is CEEH or any(row["reward/shaping"] != 0 for row in rows)
    for file in rollouts(tmp_path / "whole").values():
        for row in file:
            terms = row["terms"]
            added = shaping["init_args"]["weight"] * terms.get("shaping", 0.0)
            expected = 0.9 * terms["accuracy"] + terms["even"] + added  # weights of the quickstart
            assert row["reward"] == pytest.approx(expected)


class ByToken(Shaping):
    """Adds 1 to the rewards of the first completion of a group; token k has k + 1 times as much
    advantage, but for the second completion, which has none."""

    reads_policy = True

    def __init__(self) -> None:
        super().__init__(2.0)
        self.learned: list[list[str]] = []

    def values(self, everyone: Rollout) -> Tensor:
        values = torch.zeros_like(everyone.scores.total)
        values[:, 0] = 1.0
        return values

    def advantages(self, advantages: Tensor, everyone: Rollout) -> Tensor:
        for group in everyone.groups:
            for c in group:
                assert c.entropies is not None
                assert (c.entropies > 0).all()
        factors = torch.arange(1, 31, dtype=torch.float64).expand(*advantages.shape, -1).clone()
        factors[:, 1] = 0.0
        return advantages[..., None] * factors

    def learn(self, everyone: Rollout, dropped: Rollout) -> None:
        self.learned.append([prompt.uid for prompt in everyone.prompts])


def test_advantages_of_tokens_reach_the_update(policy_folder: Path) -> None:
    encoder = PromptEncoder(str(policy_folder))
    prompts = [encoder.encode(problem) for problem in problems(2)]
    shaping = ByToken()
    module = build_module(
        Policy.from_pretrained(str(policy_folder)), encoder, shaping=shaping, steps=2
    )
    run = run_module(module, prompts)
    assert shaping.learned == [[p.uid for p in prompts]] * 2
    for batch, metrics in zip(run.batches, run.metrics, strict=True):
        assert metrics["reward/shaping"] == 0.25
        assert metrics["policy/left_out_frac"] > 0
        first = batch.advantages[0]
        length = int(batch.lengths[0])
        expected = first[0] * torch.arange(1, length + 1)
        torch.testing.assert_close(first[:length], expected)
        assert (first[length:] == 0).all()
        assert first[0] > 0
        assert (batch.advantages[[1, 5]] == 0).all()


RIGHT_GROUPS = {
    "class_path": "vlm_rl.rewards.ConciseR",
    "init_args": {"max_completion_tokens": 99},
}


def stage(term: dict[str, Any]) -> dict[str, Any]:
    """Begin `term` at the second step."""
    named = {"term": term, "weights": {1: 0.5}}
    return {"class_path": "vlm_rl.shaping.Scheduled", "init_args": named}


@pytest.mark.parametrize("place", ["shaping", "reward.length"])
def test_pay_for_right_groups_is_refused_beside_a_filter_that_drops_them(
    place: str, policy_folder: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = stage(RIGHT_GROUPS) if place == "shaping" else RIGHT_GROUPS
    argv = command(policy_folder, data_folder, Path("never made"), FILTER)
    with pytest.raises(SystemExit) as ended:
        fit([*argv, f"--{place}={json.dumps(part)}"])
    assert ended.value.code == 2
    assert "take vlm_rl.training.SomeCorrect" in capsys.readouterr().err


def test_stage_begins_at_its_step(tmp_path: Path, policy_folder: Path, data_folder: Path) -> None:
    corners = {"least": 1, "low": 2, "high": 50, "most": 60}
    trapezoid = {"class_path": "vlm_rl.rewards.LengthTrapezoid", "init_args": corners}
    credit = run(
        tmp_path / "kept",
        policy_folder,
        data_folder,
        stage(trapezoid),
        FILTER.replace("MixedVerdicts", "SomeCorrect"),
    )["vlm_rl"]["credit"]
    assert credit == {"advantage": {}, "shaping": {}}
    rows = [row for row in read_metrics(tmp_path / "kept/metrics.csv") if "policy/loss" in row]
    assert rows[0]["reward/shaping"] == 0
    assert rows[1]["reward/shaping"] > 0
