"""What `fit` makes of a command line: every key has an effect.

Shown red once: `max_pixels` and `betas` not passed on.
"""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.support.places import REPOSITORY
from tests.support.run_helpers import (
    Listening,
    build_module,
    command,
    problems,
    rollouts,
    run_module,
    trainer_checkpoint,
)
from vlm_rl.data.prompts import INSTRUCTIONS, PromptEncoder
from vlm_rl.fit import build_parser, fit
from vlm_rl.model.policy import Policy
from vlm_rl.objectives import GSPO
from vlm_rl.rollout.sampling import WHOLE_SOFTMAX
from vlm_rl.run.metrics_csv import read_metrics
from vlm_rl.training.module import OptimizerSettings, RLModule, UpdateSettings

CHANGED: dict[str, object] = {
    "steps": 4,
    "seed": 5,
    "group_size": 3,
    "policy.freeze": "[vision_tower]",
    "prompt.min_pixels": 1024,
    "prompt.max_pixels": 2048,
    "prompt.style": "boxed_think",
    "prompt.system": "Be brief.",
    "data.prompts_per_step": 3,
    "data.val_problems": 5,
    "data.val_batch_prompts": 2,
    "engine": "tests.support.run_helpers.Listening",
    "sampling.temperature": 0.7,
    "sampling.max_completion_tokens": 5,
    "advantage": "vlm_rl.advantages.Centered",
    "objective": "vlm_rl.objectives.GSPO",
    "updates.num_minibatches": 3,
    "updates.micro_batch_tokens": 1,
    "optimizer.lr": 5e-4,
    "optimizer.betas": "[0.8, 0.95]",
    "optimizer.weight_decay": 0.03,
    "optimizer.schedule": "linear",
    "optimizer.warmup_updates": 2,
    "validation.every_n_steps": 2,
    "validation.samples_per_problem": 2,
    "validation.greedy": "false",
    "checkpoint.every_n_steps": 1,
    "checkpoint.keep_last": 1,
    "checkpoint.keep_best": 0,
}
"""Keys whose effects are looked for in one run, all away from their defaults."""

ELSEWHERE = {
    "run_dir": "run/test_folder.py::test_finished_run_names_its_steps_and_the_way_to_extend_it",
    "policy.path": "data/test_real_images.py::test_real_images_train_both_families",
    "policy.gradient_checkpointing": "test_fit.py::test_gradient_checkpointing_keeps_the_gradient",
    "policy.router_replay": (
        "rollout/test_chosen_experts.py::test_steps_measure_routers_and_their_mismatch"
    ),
    "policy.lora": "run/test_lora_runs.py::test_run_trains_only_adapters_with_everything_on",
    "checkpoint.merge_adapter": (
        "run/test_lora_runs.py::test_merged_on_request_with_the_adapter_beside_it"
    ),
    "checkpoint.hf_precision": (
        "run/test_resume.py::test_precision_of_hf_changes_neither_training_nor_what_is_resumed"
    ),
    "updates.vision_cache_mib": (
        "training/test_updates.py::test_a_frozen_tower_sees_an_image_once_in_a_step_or_in_the_run"
    ),
    "prompt.max_prompt_tokens": (
        "data/test_datamodule.py::test_limit_is_met_by_a_prompt_of_exactly_that_length"
    ),
    "data.length_targets": (
        "data/test_length_targets.py::test_prompts_say_the_target_that_the_reward_reads"
    ),
    "dynamic_sampling": (
        "training/test_dynamic_sampling.py::"
        "test_rollout_files_hold_every_sampled_group_and_say_which_was_trained_on"
    ),
    "overlap": (
        "training/test_overlap.py::test_staleness_of_zero_equals_the_synchronous_run_bit_for_bit"
    ),
    "shaping": ("shaping/test_shaping_runs.py::test_run_goes_on_bit_for_bit_with_its_state"),
    "edit": "edits/test_edited_runs.py::test_edited_run_goes_on_bit_for_bit",
    "kl_in_reward": "rewards/test_kl.py::test_kl_in_reward_golden",
    "updates.train_on_truncated": (
        "training/test_updates.py::test_truncated_completions_can_be_left_out_of_the_loss"
    ),
    "prompt.instruction": "data/test_prompts.py::test_instruction_stands_where_the_styles_does",
    "benchmarks": (
        "evaluation/test_benchmark_runs.py::test_curve_is_that_of_the_samples_at_every_step"
    ),
    "drift_alarm": "rollout/vllm/test_runs.py::test_drift_above_its_limit_is_an_alarm_with_the_uid",
    **{
        f"sampling.{name}": (
            "rollout/vllm/test_engine.py::test_sampler_that_is_allowed_is_used_and_its_drift_is_seen"
        )
        for name in (*WHOLE_SOFTMAX, "allow_undescribed")
    },
    "reward.length": "rewards/test_length.py::test_length_term_is_a_term_of_its_own",
    "reward.factors": (
        "rewards/length/test_gr3.py::test_reward_matches_a_loop_and_skips_what_was_not_checked"
    ),
    "reward.verdicts_from": (
        "rewards/test_composition.py::test_verdicts_are_those_of_the_named_term"
    ),
    "data.train": "data/test_real_images.py::test_real_images_train_both_families",
    "data.val": "data/test_real_images.py::test_real_images_train_both_families",
    "prompt.template_args": "data/test_template.py::test_args_of_a_template_decide_what_it_writes",
    "data.allow_download": "data/test_downloads.py::test_image_on_the_web_is_read_if_it_may_be",
    "data.accept_changes": "run/test_folder.py::test_changed_data_is_accepted_by_its_setting",
    "data.max_text_chars": "data/test_datamodule.py::test_long_text_is_a_bad_row_by_its_setting",
    "data.on_bad_row": "run/test_reports.py::test_skipped_rows_are_in_the_summary",
    "data.num_workers": "data/test_datamodule.py::test_restart_goes_on_with_the_very_next_step",
    "reward.terms": "run/test_reports.py::test_rollout_files_hold_every_completion",
    "reward.max_unscored_frac": (
        "verification/test_malformed_answers.py::test_run_stops_when_too_many_answers_cannot_be_checked"
    ),
    "updates.max_grad_norm": "test_fit.py::test_gradient_is_clipped_to_max_grad_norm",
    "updates.max_skipped_updates": (
        "training/test_updates.py::test_too_many_skipped_updates_in_a_row_stop_the_run"
    ),
    "optimizer.vision_lr": "training/test_updates.py::test_vision_lr_is_a_learning_rate_of_its_own",
    **{
        f"rollouts.{name}": "run/test_reports.py::test_rollout_files_have_bounds"
        for name in ("every_n_steps", "keep_last", "compress")
    },
    "rollouts.max_image_mib": "run/test_images_and_tokens.py::test_images_are_bounded",
    "rollouts.token_groups": "run/test_images_and_tokens.py::test_tokens_are_of_so_many_groups",
    "health.enabled": "health/test_detectors.py::test_switched_off_it_finds_nothing",
    "health.detectors": "health/test_ill_runs.py::test_restart_remembers_what_was_seen_and_said",
    "hang_timeout_s": "run/test_survival.py::test_hang_names_itself_and_ends_the_run",
    "length_gradients": (
        "metrics/test_length_gradients.py::"
        "test_run_logs_cosine_and_bound_every_so_many_steps_and_a_wide_band_turns_nothing"
    ),
    "profile": "run/test_trace.py::test_trace_holds_the_steps_asked_for_with_their_stages",
    "logging.wandb": "run/test_reports.py::test_wandb_run_is_written_offline",
    "logging.trackers": "run/test_trackers.py::test_trackers_have_the_metrics_samples_and_alerts",
    "logging.project": "run/test_reports.py::test_wandb_run_is_written_offline",
}
"""Keys whose effect is shown by another test."""


class Changed(NamedTuple):
    module: RLModule
    folder: Path
    engine: Listening


@pytest.fixture(scope="module")
def changed(
    policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Changed:
    folder = tmp_path_factory.mktemp("changed") / "run"
    module = fit(command(policy_folder, data_folder, folder, **CHANGED))
    assert isinstance(module.engine, Listening)
    return Changed(module, folder, module.engine)


def test_every_key_has_a_test_of_its_effect() -> None:
    leaves = {
        action.dest for action in build_parser()._actions if not action.dest.endswith(".help")
    }
    sections = {key.partition(".")[0] for key in leaves if "." in key}
    leaves -= sections | {"config", "help", "print_config"}
    keys = {key for key in leaves if not key.startswith("trainer.")}  # Lightning's own
    assert CHANGED.keys() | ELSEWHERE.keys() == keys
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        assert f"def {name}" in (REPOSITORY / "tests" / file).read_text(), place


def test_counts_of_steps_prompts_and_completions_are_as_configured(changed: Changed) -> None:
    written = rollouts(changed.folder)
    assert list(written) == [f"step_{step:06d}.jsonl" for step in (1, 2, 3, 4)]
    for rows in written.values():
        assert sorted(Counter(row["uid"] for row in rows).values()) == [3, 3, 3]
        assert all(1 <= row["length_tokens"] <= 5 for row in rows)
    assert trainer_checkpoint(changed.folder, 4)["global_step"] == 12


def test_engine_is_asked_as_configured(changed: Changed) -> None:
    calls = Counter((len(p), how["group_size"]) for p, how in changed.engine.calls)
    # 5 validation problems in batches of 2 with 2 samples at 3 validations, 3 prompts at 4 steps
    assert calls == {(2, 2): 6, (1, 2): 3, (3, 3): 4}
    temperatures = {how["sampling"].temperature for _, how in changed.engine.calls}
    assert temperatures == {0.7}
    seeds = [how["seed"] for prompts, how in changed.engine.calls if how["group_size"] == 3]
    assert len(set(seeds)) == 4


def test_prompts_are_as_configured(changed: Changed) -> None:
    for prompts, _ in changed.engine.calls:
        for prompt in prompts:
            text = changed.module.encoder.tokenizer.decode(prompt.token_ids)
            assert "<|im_start|>system\nBe brief.<|im_end|>" in text
            assert INSTRUCTIONS["boxed_think"] in text
            assert all(1024 <= image.width * image.height <= 2048 for image in prompt.images)


def test_every_forward_is_within_the_token_budget(changed: Changed) -> None:
    # one completion a forward, for the old log-probabilities and in the update; some may be in none
    packed = changed.engine.packed
    assert 4 * 9 < len(packed) <= 4 * 9 * 2
    assert all(sum(len(group.completions) for group in forward.groups) == 1 for forward in packed)


def test_parts_are_the_named_classes(changed: Changed) -> None:
    assert type(changed.module.objective) is GSPO
    assert type(changed.module.advantage).__name__ == "Centered"


def test_optimizer_is_as_configured(changed: Changed, policy_folder: Path) -> None:
    state = trainer_checkpoint(changed.folder, 4)["optimizer_states"][0]
    assert len(state["param_groups"]) == 1, "the vision tower is frozen"
    group = state["param_groups"][0]
    assert (group["betas"], group["weight_decay"]) == ((0.8, 0.95), 0.03)
    rates = [
        row["optim/lr"] for row in read_metrics(changed.folder / "metrics.csv") if "optim/lr" in row
    ]
    # of 12 updates 2 warm up: 0, 1/2, then 10/10, 9/10, ... 1/10; three a step
    factors = [[0, 0.5, 1.0], [0.9, 0.8, 0.7], [0.6, 0.5, 0.4], [0.3, 0.2, 0.1]]
    assert rates == pytest.approx([5e-4 * sum(three) / 3 for three in factors])
    start = Policy.from_pretrained(str(policy_folder)).part("vision_tower").state_dict()
    end = changed.module.policy.part("vision_tower").state_dict()
    assert all(torch.equal(start[name], end[name]) for name in start)


def test_validations_and_checkpoints_come_as_configured(changed: Changed) -> None:
    history = changed.module.validation_history
    assert [row["step"] for row in history] == [0, 2, 4]
    assert not [name for row in history for name in row if name.startswith("val_greedy")]
    assert [path.name for path in (changed.folder / "checkpoints").iterdir()] == ["step_4"]


def test_last_step_is_validated_and_saved_off_the_intervals(
    policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    every = {"validation.every_n_steps": 2, "checkpoint.every_n_steps": 5, "data.val_problems": 2}
    module = fit(command(policy_folder, data_folder, folder, steps=3, **every))
    assert [row["step"] for row in module.validation_history] == [0, 2, 3]
    saved = trainer_checkpoint(folder, 3)["vlm_rl"]
    assert [row["step"] for row in saved["validation_history"]] == [0, 2, 3]


def test_run_without_validation_problems_saves_its_checkpoints(
    policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    changes = {"data.val": "[]", "validation.every_n_steps": 1, "checkpoint.every_n_steps": 1}
    module = fit(command(policy_folder, data_folder, folder, steps=2, **changes))
    assert module.validation_history == []
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"step_1", "step_2"}


def test_bf16_run_computes_in_bf16_and_keeps_float32_weights(
    policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    """One step in each precision: bf16 shows in the loss, not in the weights' type; and at the
    weights that sampled engine and trainer still agree as far as bf16 can."""
    changes = {"data.val": "[]", "updates.num_minibatches": 1}
    metrics = {}
    for precision in ("32-true", "bf16-mixed"):
        folder = tmp_path / precision
        options = command(policy_folder, data_folder, folder, steps=1, **changes)
        module = fit([*options, f"--trainer.precision={precision}"])
        assert {p.dtype for p in module.policy.parameters()} == {torch.float32}
        (metrics[precision],) = read_metrics(folder / "metrics.csv")
    exact, rounded = metrics["32-true"], metrics["bf16-mixed"]
    assert exact["drift/abs_mean"] < 1e-5
    assert 1e-5 < rounded["drift/abs_mean"] < 0.05
    assert rounded["optim/grad_norm"] > 0
    assert rounded["policy/ratio"] == pytest.approx(1.0, abs=1e-6)  # packed alike, old and new


def test_gradient_is_clipped_to_max_grad_norm(policy_folder: Path) -> None:
    encoder = PromptEncoder(str(policy_folder))
    prompts = [encoder.encode(problem) for problem in problems(2)]
    norms = {}
    for limit in (None, 1e-3):
        policy = Policy.from_pretrained(str(policy_folder))
        updates = UpdateSettings(max_grad_norm=limit)
        module = run_module(build_module(policy, encoder, updates=updates), prompts)
        squares = [grad.double().square().sum() for grad in module.gradients[0].values()]
        norms[limit] = float(torch.stack(squares).sum().sqrt())
        assert module.metrics[0]["optim/grad_norm"] > 1, "the norm before clipping is reported"
    assert norms[None] > 1
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-4)


def test_gradient_checkpointing_keeps_the_gradient(policy_folder: Path) -> None:
    encoder = PromptEncoder(str(policy_folder))
    prompts = [encoder.encode(problem) for problem in problems(1)]
    found, layers = [], []
    for switch in (False, True):
        policy = Policy.from_pretrained(str(policy_folder), gradient_checkpointing=switch)
        calls: list[object] = []
        layer = policy.part("language_model").layers[0]  # type: ignore[union-attr, index]
        layer.register_forward_pre_hook(lambda *_, seen=calls: seen.append(1))
        module = build_module(policy, encoder)
        found.append(run_module(module, prompts).gradients[0])
        layers.append(len(calls))
    assert layers[1] == layers[0] + 1, "the layer is computed again in the backward"
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [0, 0.5, 1, 1, 1, 1]),
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0, 0.5, 1, 0.85355339, 0.5, 0.14644661]),  # (1 + cos(pi k / 4)) / 2
    ],
)
def test_schedule_golden(policy_folder: Path, schedule: Any, factors: list[float]) -> None:
    settings = OptimizerSettings(lr=1e-3, vision_lr=1e-4, schedule=schedule, warmup_updates=2)
    policy = Policy.from_pretrained(str(policy_folder))
    encoder = PromptEncoder(str(policy_folder))
    updates = UpdateSettings(num_minibatches=2)
    module = build_module(policy, encoder, optimizer=settings, updates=updates, steps=3)
    [optimizer], [scheduler] = module.configure_optimizers()
    for factor in factors:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * factor)
        assert optimizer.param_groups[1]["lr"] == pytest.approx(1e-4 * factor)
        optimizer.step()
        scheduler.step()
