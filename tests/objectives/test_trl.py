"""The same tensors through TRL's loss and through ours.

Only formulas are compared: TRL's trainer is real, but its forward is replaced by given
log-probabilities.
The arguments are set to account for differences by design:
    CISPO: TRL's epsilon_high is the cap itself, ours the distance above 1
    DAPO, CISPO, VESPO: TRL divides by the tokens of the generation batch, which here is the batch
    KL: TRL multiplies it by the ratio by default, as DeepSeek-V3.2 does
    Dr.GRPO: TRL's constant is max_completion_length
    LUSPO: older versions of TRL averaged over the padded width if anything was per token
    BNPO: equal with one micro-batch, by definition

Mutations, each seen red: a clip end changed; LUSPO with GSPO's aggregation; the sign of the KL.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.objective_cases import batch_of, divided, grad_of, random_rows, stats_of
from vlm_rl.objectives import (
    BNPO,
    CISPO,
    DAPO,
    GRPO,
    GSPO,
    KL,
    LUSPO,
    SAPO,
    VESPO,
    CorrectedKL,
    DrGRPO,
    Objective,
)

pytest.importorskip("trl", reason="TRL is not installed: pip install trl")

CONSTANT = 8
KEEP = [0, 1, 3, 4, 5, 6, 8, 9, 10, 11]
"""Rows with tokens: TRL counts empty rows as sequences, we do not."""

CASES: dict[str, tuple[Objective, dict[str, Any]]] = {
    "grpo": (GRPO(), {"loss_type": "grpo"}),
    "grpo with dual clip": (
        GRPO(dual_clip=1.5),
        {"loss_type": "grpo", "delta": 1.5, "epsilon_high": 0.2},
    ),
    "grpo with k3": (GRPO(regularizers=[KL(0.1)]), {"loss_type": "grpo", "beta": 0.1}),
    "grpo with corrected k3": (
        GRPO(regularizers=[CorrectedKL(0.1)]),
        {"loss_type": "grpo", "beta": 0.1, "use_bias_correction_kl": True},
    ),
    "bnpo": (BNPO(), {"loss_type": "bnpo"}),
    "cispo": (CISPO(clip_high=4.0), {"loss_type": "cispo", "epsilon_high": 5.0}),
    # TRL holds the temperature in float32
    "sapo": (SAPO(temperature_negative=torch.tensor(1.05).item()), {"loss_type": "sapo"}),
    "vespo": (VESPO(), {"loss_type": "vespo"}),
    "dr_grpo": (DrGRPO(CONSTANT), {"loss_type": "dr_grpo"}),
    "dapo": (DAPO(), {"loss_type": "dapo", "epsilon_high": 0.28}),
    "gspo": (
        GSPO(),
        {
            "loss_type": "grpo",
            "importance_sampling_level": "sequence",
            "epsilon": 3e-4,
            "epsilon_high": 4e-4,
        },
    ),
    "luspo": (
        LUSPO(),
        {
            "loss_type": "luspo",
            "importance_sampling_level": "sequence",
            "epsilon": 2e-3,
            "epsilon_high": 2.5e-3,
        },
    ),
    "luspo with k3": (
        LUSPO(regularizers=[KL(0.1)]),
        {
            "loss_type": "luspo",
            "importance_sampling_level": "sequence",
            "epsilon": 2e-3,
            "epsilon_high": 2.5e-3,
            "beta": 0.1,
        },
    ),
}


def trl_loss(folder: Path, settings: dict[str, Any], logprobs: Tensor, seed: int) -> Tensor:
    """Return `GRPOTrainer`'s loss of random_rows(seed) with `logprobs` [B, T]."""
    from datasets import Dataset
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    class Given(GRPOTrainer):
        def _get_per_token_logps_and_entropies(self, *_: Any, **__: Any) -> Any:
            return logprobs, torch.zeros_like(logprobs), None

    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    arguments = GRPOConfig(
        output_dir=str(folder),
        report_to=[],
        use_cpu=True,
        bf16=False,
        num_generations=2,
        per_device_train_batch_size=2,
        max_completion_length=CONSTANT,
        disable_tqdm=True,
        **{"beta": 0.0, "use_bias_correction_kl": False} | settings,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder / "text")
    trainer = Given(
        # a path: with a KL, TRL loads the reference from there
        str(folder / "text"),
        lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": ["a", "b"]}),
    )
    trainer.current_gradient_accumulation_steps = 1
    batch = batch_of(_rows(seed))
    mask = batch.completion_mask.long()
    return trainer._compute_loss(
        trainer.model,
        {
            "prompt_ids": batch.completion_ids[:, :1],
            "prompt_mask": mask[:, :1],
            "completion_ids": batch.completion_ids,
            "completion_mask": mask,
            "advantages": batch.advantages[:, 0],
            "old_per_token_logps": batch.old_logprobs,
            "ref_per_token_logps": batch.ref_logprobs,
            "num_items_in_batch": mask.sum(),
        },
    )


def _rows(seed: int) -> list[Any]:
    rows = random_rows(seed)
    return [rows[index] for index in KEEP]


@pytest.mark.parametrize("name", CASES)
def test_objective_equals_trl(name: str, policy_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(policy_folder, folder)
    objective, settings = CASES[name]
    for seed in (0, 1):
        rows = _rows(seed)
        theirs = stats_of(rows).logprobs
        other = trl_loss(folder, settings, theirs, seed)
        other.backward()
        stats, batch = stats_of(rows), batch_of(rows)
        loss, _ = divided(objective, [stats], [batch], batch)
        loss.backward()
        assert loss.item() == pytest.approx(other.item(), rel=1e-10)
        for row, expected in zip(grad_of(rows, stats.logprobs), grad_of(rows, theirs), strict=True):
            assert row == pytest.approx(expected, rel=1e-8, abs=1e-12)
