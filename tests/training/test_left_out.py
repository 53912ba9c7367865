"""Rows without an advantage are left out of forwards, and the updates stay what they were.

Gradients, weights and losses are compared with those of updates that compute all rows. Broken on
purpose, one at a time, each seen red: rows left out that have an advantage; those left out not
counted in the normalizers; a kind of prompts without signal left out; old log-probabilities in the
order of the forwards; drift measured on rows that are in none; `left_out_frac` of rows; rows left
out with a KL in the reward.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.run_helpers import (
    Nothing,
    Recorder,
    Scripted,
    UntestedAccuracy,
    build_module,
    problems,
    run_module,
    weights,
)
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.objectives import CISPO, GRPO, LUSPO, Objective
from vlm_rl.records import Prompt
from vlm_rl.rewards import KLInReward, Reward
from vlm_rl.training.module import OptimizerSettings, UpdateSettings

DIFFERENT = ["aaaa", "b", "cc=7", "12"]
"""Four texts, each with another share of even tokens."""
EQUAL = ["xy, and more"] * 4


@pytest.fixture(scope="module")
def encoder(policy_folder: Path) -> PromptEncoder:
    return PromptEncoder(str(policy_folder))


@pytest.fixture(scope="module")
def prompts(encoder: PromptEncoder) -> list[Prompt]:
    """Encode four problems with an image and two of text alone."""
    made = problems(6)
    texts = [replace(p, images=(), question=p.question.replace("<image>", "")) for p in made[4:]]
    return [encoder.encode(problem) for problem in [*made[:4], *texts]]


def train(
    folder: Path, encoder: PromptEncoder, prompts: Sequence[Prompt], signal: str, **changes: Any
) -> Recorder:
    """Train in float64; of each prompt `signal` says whether its completions differ (1 or 0)."""
    texts = {p.uid: DIFFERENT if s == "1" else EQUAL for p, s in zip(prompts, signal, strict=True)}
    policy = Policy.from_pretrained(str(folder)).double()
    parts = {
        "engine": Scripted(texts),
        "optimizer": OptimizerSettings(lr=1e-3, weight_decay=0.1),
        "steps": 3,
    }
    return run_module(build_module(policy, encoder, **parts | changes), prompts)


def computing_all(monkeypatch: pytest.MonkeyPatch, *args: Any, **changes: Any) -> Recorder:
    with monkeypatch.context() as patch:
        patch.setattr(Objective, "needs_all_rows", True)
        return train(*args, **changes)


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


@pytest.mark.parametrize(
    ("objective", "minibatches", "tokens", "signal"),
    [
        (LUSPO, 1, 10**6, "011010"),
        (GRPO, 2, 100, "010011"),
        (CISPO, 1, 1, "101001"),
    ],
)
def test_updates_are_those_with_all_rows(
    policy_folder: Path,
    encoder: PromptEncoder,
    prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
    objective: type[Objective],
    minibatches: int,
    tokens: int,
    signal: str,
) -> None:
    updates = UpdateSettings(minibatches, tokens, max_grad_norm=None)
    setting = (policy_folder, encoder, prompts, signal)
    whole = computing_all(monkeypatch, *setting, objective=objective(), updates=updates)
    run = train(*setting, objective=objective(), updates=updates)
    assert len(run.gradients) == len(whole.gradients) == 3 * minibatches
    for got, wanted in zip(run.gradients, whole.gradients, strict=True):
        assert got.keys() == wanted.keys()
        assert any(gradient.any() for gradient in wanted.values())
        for name, gradient in wanted.items():
            torch.testing.assert_close(got[name], gradient, rtol=0, atol=1e-12)
    after, expected = weights(run.policy), weights(whole.policy)
    apart = [float((after[name] - expected[name]).abs().max()) for name in expected]
    assert max(apart) <= 1e-12
    for got, wanted in zip(run.metrics, whole.metrics, strict=True):
        assert got["policy/loss"] == pytest.approx(wanted["policy/loss"], rel=1e-9, abs=1e-12)
        assert got["optim/grad_norm"] == pytest.approx(wanted["optim/grad_norm"], rel=1e-9)
        assert wanted["policy/left_out_frac"] == 0
        assert got["policy/left_out_frac"] > 0.4


def test_left_out_rows_are_counted_and_have_no_old_logprobs(
    policy_folder: Path, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    run = train(policy_folder, encoder, prompts, "011010", steps=1)
    (batch,), (metrics,) = run.batches, run.metrics
    learns = torch.tensor([bool(int(s)) for s in "011010"]).repeat_interleave(4)
    known = batch.old_logprobs.isfinite()
    assert torch.equal(known, learns[:, None].expand_as(known))
    own = batch.completion_mask & learns[:, None]
    drift = (batch.old_logprobs - batch.sampling_logprobs)[own].abs()
    assert metrics["drift/abs_mean"] == pytest.approx(float(drift.mean()), abs=1e-9)
    tokens = batch.lengths
    share = int(tokens[~learns].sum()) / int(tokens.sum())
    assert metrics["policy/left_out_frac"] == pytest.approx(share)
    assert metrics["group/without_signal_frac"] == pytest.approx(1 / 2)


def test_an_update_without_any_signal_computes_all_rows_bit_for_bit(
    policy_folder: Path,
    encoder: PromptEncoder,
    prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reward = Reward({"accuracy": UntestedAccuracy(), "nothing": Nothing()})
    setting = (policy_folder, encoder, prompts, "010101")
    whole = computing_all(monkeypatch, *setting, reward=reward)
    run = train(*setting, reward=reward)
    assert [untimed(m) for m in run.metrics] == [untimed(m) for m in whole.metrics]
    before = weights(Policy.from_pretrained(str(policy_folder)).double())
    after = weights(run.policy)
    assert all(torch.equal(after[name], value) for name, value in weights(whole.policy).items())
    assert any(not torch.equal(after[name], value) for name, value in before.items())  # by decay


@pytest.mark.parametrize(
    ("signal", "computed"),
    [("000010", "111110"), ("001000", "001011"), ("000000", "111111"), ("100001", "100001")],
)
def test_a_kind_of_prompts_without_any_signal_is_computed(
    policy_folder: Path, encoder: PromptEncoder, prompts: list[Prompt], signal: str, computed: str
) -> None:
    run = train(policy_folder, encoder, prompts, signal, steps=1)
    known = run.batches[0].old_logprobs.isfinite().all(-1).reshape(6, 4)
    assert known.tolist() == [[bool(int(c))] * 4 for c in computed]
    assert {"drift/image/abs_mean", "drift/text/abs_mean"} < run.metrics[0].keys()
    towers = [name for name in run.gradients[0] if ".visual." in name]
    assert towers, "a gradient of 0, not none: momentum would move no weight"


def test_with_a_kl_in_the_reward_all_rows_are_computed(
    policy_folder: Path, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    kl = KLInReward(1e-3)
    run = train(policy_folder, encoder, prompts, "010101", steps=1, kl_in_reward=kl)
    assert (run.batches[0].advantages == 0).any()
    assert run.batches[0].old_logprobs.isfinite().all()
    assert run.metrics[0]["policy/left_out_frac"] == 0
