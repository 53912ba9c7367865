"""Real runs of the tiny policy that are made to be ill: each detector speaks alone and once."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.places import REPOSITORY
from tests.support.run_helpers import REWARD_TERMS, command
from vlm_rl.fit import fit
from vlm_rl.health import DETECTORS
from vlm_rl.records import Completion, Groups, Problem, Prompt
from vlm_rl.rewards import RewardTerm
from vlm_rl.rollout import TransformersEngine

HERE = "tests.health.test_ill_runs"
STEPS = 24
ONSET = 14


class LaterTerm(RewardTerm):
    """A term of the parity of each length; `later` is done to it from step 14 on."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.calls = 0

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        self.calls += len(groups) == 4  # a validation asks in another number
        rows = [[float(len(c) % 2) for c in group] for group in groups]
        return self.later(torch.tensor(rows, dtype=torch.float64), self.calls)

    def later(self, values: Tensor, step: int) -> Tensor:
        return values


class Glitches(LaterTerm):
    """Pays a thousand times as much in every third step."""

    def later(self, values: Tensor, step: int) -> Tensor:
        return values * 1000 if step > ONSET and step % 3 == 0 else values


class Waits(LaterTerm):
    """Takes two seconds."""

    def later(self, values: Tensor, step: int) -> Tensor:
        time.sleep(2 if step > ONSET else 0)
        return values


class Same(LaterTerm):
    """Pays all alike, as a pattern that never matches does."""

    def later(self, values: Tensor, step: int) -> Tensor:
        return torch.full_like(values, 0.5)


class Distorted(TransformersEngine):
    """Reports other log-probabilities than it sampled with."""

    def generate(self, prompts: Sequence[Prompt], **how: Any) -> list[list[Completion]]:
        groups = super().generate(prompts, **how)
        return [[self._other(completion) for completion in group] for group in groups]

    def _other(self, c: Completion) -> Completion:
        return Completion(c.token_ids, c.sampling_logprobs - 0.3, c.finish_reason, c.text)


def _terms(kind: str, **more: object) -> dict[str, object]:
    accuracy = REWARD_TERMS["accuracy"]
    return {
        "reward.terms": json.dumps(
            {"accuracy": accuracy, "parity": {"class_path": f"{HERE}.{kind}"}} | more
        )
    }


HEALTHY = {
    "policy.path": REPOSITORY / "data_prep/warm_start",
    "data.prompts_per_step": 4,
    "sampling.max_completion_tokens": 40,
    "optimizer.lr": 1e-5,
    "validation.every_n_steps": STEPS,
    "validation.greedy": "false",
    "data.val_problems": 2,
    "checkpoint.every_n_steps": STEPS,
    "steps": STEPS,
} | _terms("LaterTerm")

ILL: dict[str, dict[str, object]] = {
    "constant_term": _terms("Same"),
    "truncation_wave": {"sampling.max_completion_tokens": 8},
    "groups_without_signal": {"sampling.temperature": 0.001},
    "gradient_spikes": {"advantage": "vlm_rl.advantages.Centered"} | _terms("Glitches"),
    "clip_saturation": {
        "data.prompts_per_step": 8,
        "updates.num_minibatches": 8,
        "optimizer.lr": 1e-4,
        "objective": "vlm_rl.objectives.GRPO",
        "objective.init_args.clip_low": 1e-6,
        "objective.init_args.clip_high": 1e-6,
    },
    "drift": {"engine": f"{HERE}.Distorted"},
    "slow_stage": _terms("Waits"),
}


def _run(data: Path, run_dir: Path, **changes: object) -> dict[str, int]:
    fit(command(HEALTHY["policy.path"], data, run_dir, **HEALTHY | changes))
    findings = json.loads((run_dir / "summary.json").read_text())["health"]
    return {finding["detector"]: finding["step"] for finding in findings}


def test_restart_remembers_what_was_seen_and_said(
    policy_folder, data_folder, tmp_path, capfd
) -> None:
    """Of a term that is constant for 6 steps, 4 come before the restart."""
    sooner = {"class_path": "vlm_rl.health.ConstantTerm", "init_args": {"steps": 6}}
    changes = _terms("Same", even=REWARD_TERMS["even"]) | {
        "policy.path": policy_folder,
        "sampling.max_completion_tokens": 4,
        "data.prompts_per_step": 2,
        "validation.every_n_steps": 2,
        "health.detectors": json.dumps({"constant_term": sooner, "slow_stage": None}),
    }
    found = [_run(data_folder, tmp_path / "run", **changes | {"steps": n}) for n in (4, 7, 8)]
    assert found == [{}, {"constant_term": 6}, {"constant_term": 6}]
    lines = [line for line in capfd.readouterr().out.splitlines() if "constant term at" in line]
    # at its step, and at the end of both runs after it
    assert len(lines) == 3
    assert len(set(lines)) == 1
    assert "reward/parity = 0.5" in lines[0]


@pytest.mark.long
@pytest.mark.parametrize("name", [*ILL, None])
def test_ill_run_is_named_and_nothing_else(data_folder, tmp_path, name) -> None:
    found = _run(data_folder, tmp_path / "run", **ILL.get(name, {}))
    assert [*found] == ([name] if name else [])
    assert {*found} <= DETECTORS.keys()
