"""What a real step says of its cost.

Broken on purpose, each seen red: an engine elsewhere whose rollout is counted; one pass for
log-probabilities where there is none.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.support.run_helpers import build_module, problems, run_module
from tests.support.tiny import sharp_policy
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.metrics.flops import ModelFlops, Work
from vlm_rl.objectives import KL, LUSPO
from vlm_rl.training.settings import UpdateSettings

STAGES = ("weights", "rollout", "reward", "logprobs", "update")


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({}, 0),
        ({"updates": UpdateSettings(num_minibatches=2)}, 1),
        (
            {
                "updates": UpdateSettings(num_minibatches=2),
                "objective": LUSPO(regularizers=[KL(0.1)]),
            },
            2,
        ),
    ],
)
def test_use_counts_rollout_passes_and_updates(
    policy_folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], passes: int
) -> None:
    monkeypatch.setattr("vlm_rl.training.meter.peak_tflops_here", lambda: 1e-3)
    encoder = PromptEncoder(str(policy_folder))
    prompts = [encoder.encode(problem) for problem in problems(2)]
    module = build_module(sharp_policy(policy_folder), encoder, **changes)
    flops = ModelFlops(module.policy)
    metrics = run_module(module, prompts).metrics[0]
    rows = module.batches[0]
    seconds = {name: metrics[f"time/{name}_s"] for name in STAGES}
    trained = Work.of_rows(rows)
    assert len(trained.grids) == 2
    in_updates = flops.training(trained)
    # all that was sampled is trained on
    in_all = flops.forward(trained) + passes * flops.scoring(trained) + in_updates
    rate = in_all / 1e12 / sum(seconds.values())
    assert metrics["time/model_tflop_per_second"] == pytest.approx(rate)
    assert metrics["time/mfu"] == pytest.approx(rate / 1e-3)
    of_updates = in_updates / 1e12 / seconds["update"]
    assert metrics["time/update_mfu"] == pytest.approx(of_updates / 1e-3)
    # the tower is run in the rollout, the update and, trained too, the passes
    assert 0 < metrics["time/vision/forward_s"] < sum(seconds.values())
    assert metrics["time/peak_resident_gb"] > 0.1


def test_work_of_an_engine_elsewhere_is_not_counted(
    policy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = PromptEncoder(str(policy_folder))
    prompts = [encoder.encode(problem) for problem in problems(2)]
    module = build_module(sharp_policy(policy_folder), encoder)
    monkeypatch.setattr(module.engine, "is_elsewhere", True)
    flops = ModelFlops(module.policy)
    metrics = run_module(module, prompts).metrics[0]
    trained = flops.training(Work.of_rows(module.batches[0])) / 1e12
    seconds = sum(metrics[f"time/{name}_s"] for name in STAGES)
    assert metrics["time/model_tflop_per_second"] == pytest.approx(trained / seconds)


def test_time_in_the_tower_is_that_of_its_forwards_in_a_copy_too(policy_folder: Path) -> None:
    encoder = PromptEncoder(str(policy_folder))
    prompts = [encoder.encode(problem) for problem in problems(1)]
    module = build_module(
        sharp_policy(policy_folder), encoder, objective=LUSPO(regularizers=[KL(0.1)])
    )
    run_module(module, prompts)
    tower = module.meter._tower
    assert tower.take() == 0.0
    assert module.reference is not None
    module.reference.logprobs(module.batches[0], temperature=1.0)
    assert tower.take() > 0.0
