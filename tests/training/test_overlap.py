"""The overlapped schedule: what it trains on, that it overlaps, and how it goes on and ends.

The engine is a second transformers model (`copied_engine`), which needs no vLLM; a real server is
in tests/rollout/vllm/test_overlap_with_server.py.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.copied_engine import Copied
from tests.support.overlapping import (
    OverlappedRecorder,
    SaysUpdate,
    WaitsForUpdate,
    Watched,
    engine,
    overlapped,
)
from tests.support.run_helpers import (
    REWARD_TERMS,
    build_module,
    problems,
    rollouts,
    run_module,
    same,
    trainer_checkpoint,
)
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.fit import fit
from vlm_rl.model.policy import Policy
from vlm_rl.objectives import LUSPO, SequenceTIS, TokenTIS
from vlm_rl.records import Batch
from vlm_rl.run.metrics_csv import read_metrics
from vlm_rl.training.overlap import Overlap
from vlm_rl.training.settings import UpdateSettings


def _module(folder: Path, engine: Copied, **changes: Any) -> tuple[OverlappedRecorder, Any]:
    encoder = PromptEncoder(str(folder), max_prompt_tokens=256)
    prompts = [encoder.encode(problem) for problem in problems(2)]
    corrected = LUSPO(token_weights=[SequenceTIS(2.0)])
    parts = {
        "steps": 4,
        "engine": engine,
        "objective": corrected,
        "overlap": Overlap(),
        "following": lambda step: prompts,
    }
    policy = Policy.from_pretrained(str(folder))
    module = build_module(policy, encoder, kind=OverlappedRecorder, **parts | changes)
    assert isinstance(module, OverlappedRecorder)
    return run_module(module, prompts), prompts


def _copied(folder: Path, kind: type[Copied] = Copied) -> Copied:
    return kind(checkpoint=str(folder), rank=0, breaks_after=[])


def _logprobs(policy: Policy, state: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
    policy.load_state_dict(state)
    with policy.evaluating(), torch.no_grad():
        return policy.logprobs(batch, temperature=1.0).logprobs[batch.completion_mask]


@pytest.mark.parametrize("num_minibatches", [1, 2])
def test_step_trains_on_completions_of_the_weights_before_it(
    policy_folder: Path, num_minibatches: int
) -> None:
    """The engine's log-probs are of the weights one step ago, the old ones of those of the step."""
    updates = UpdateSettings(num_minibatches=num_minibatches, max_grad_norm=None)
    module, _ = _module(policy_folder, _copied(policy_folder, Watched), updates=updates)
    states, policy = module.began_with, module.policy
    assert len(states) == len(module.batches) == 4
    for step, batch in enumerate(module.batches):
        mask = batch.completion_mask
        sampled, old = batch.sampling_logprobs[mask], batch.old_logprobs[mask]
        sampled_with = _logprobs(policy, states[max(step - 1, 0)], batch)
        assert (sampled - sampled_with).abs().max() < 1e-5
        assert (old - _logprobs(policy, states[step], batch)).abs().max() < 1e-5
        if step:
            assert (sampled - old).abs().max() > 1e-3
    ages = [metrics["rollout/staleness_steps"] for metrics in module.metrics]
    assert ages == [0, 1, 1, 1]
    begun = [on_main for on_main, runs in module.engine.places if runs]  # type: ignore[attr-defined]
    assert begun == [False] * 4, "one for each step and none after the last, in a thread"


def test_rollout_runs_while_the_step_before_it_is_in_its_update(policy_folder: Path) -> None:
    """Would wait forever otherwise."""
    objective = SaysUpdate(token_weights=[TokenTIS()])
    module, _ = _module(policy_folder, _copied(policy_folder, WaitsForUpdate), objective=objective)
    assert module.completed_steps == module.engine.num_begun == 4  # type: ignore[attr-defined]


def _metrics(run_dir: Path) -> list[dict[str, float]]:
    """Return all rows but for what differs from run to run, and the staleness."""
    rows = read_metrics(run_dir / "metrics.csv")
    left_out = "rollout/staleness_steps"
    kept = [
        {name: value for name, value in row.items() if not name.startswith(("time/", left_out))}
        for row in rows
    ]
    return sorted(kept, key=lambda row: (row["step"], "val/accuracy" in row))


def _ages(run_dir: Path) -> list[float]:
    rows = read_metrics(run_dir / "metrics.csv")
    return [row["rollout/staleness_steps"] for row in rows if "rollout/staleness_steps" in row]


def _assert_equal(run_dir: Path, whole: Path, step: int = 6) -> None:
    ours, theirs = trainer_checkpoint(run_dir, step), trainer_checkpoint(whole, step)
    for name in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(ours[name], theirs[name]), name
    assert rollouts(run_dir) == rollouts(whole)
    assert _metrics(run_dir) == _metrics(whole)


@pytest.fixture(scope="module")
def synchronous(
    policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    run_dir = tmp_path_factory.mktemp("synchronous") / "run"
    fit(overlapped(policy_folder, data_folder, run_dir, staleness=None))
    return run_dir


@pytest.fixture(scope="module")
def whole(policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train six overlapped steps without a break."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    fit(overlapped(policy_folder, data_folder, run_dir))
    return run_dir


def test_staleness_of_zero_equals_the_synchronous_run_bit_for_bit(
    synchronous: Path, whole: Path, policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    fit(overlapped(policy_folder, data_folder, tmp_path / "run", staleness=0))
    _assert_equal(tmp_path / "run", synchronous)
    assert _ages(tmp_path / "run") == [0] * 6
    assert _ages(synchronous) == []
    assert _ages(whole) == [0, 1, 1, 1, 1, 1]


def test_problems_are_those_of_the_synchronous_run(synchronous: Path, whole: Path) -> None:
    def by_step(run_dir: Path, name: str) -> list[list[Any]]:
        return [[row[name] for row in rows] for rows in rollouts(run_dir).values()]

    assert by_step(whole, "uid") == by_step(synchronous, "uid")
    ours, theirs = by_step(whole, "token_ids"), by_step(synchronous, "token_ids")
    assert ours[0] == theirs[0]
    assert ours[1] != theirs[1]
