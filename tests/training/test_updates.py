"""What an update changes: nothing where it is not finite, nothing in frozen parts, and each part
at its own learning rate.

Shown red once: in `_step_optimizer` `finite` always True, or asked of the loss alone; the uids of
a skipped update left out; `vision_lr` replaced by `lr`; the checksum in `on_fit_end` not compared.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from tests.support.run_helpers import Scripted, build_module, problems, run_module, weights
from tests.support.tiny import completion_of
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.distributed.gather import Places
from vlm_rl.model.logprobs import TokenStats
from vlm_rl.model.policy import Policy
from vlm_rl.objectives import GRPO, KL, LUSPO
from vlm_rl.objectives.objective import Loss, Plan
from vlm_rl.records import Batch, Completion, Prompt, Rows
from vlm_rl.training.module import OptimizerSettings, UpdateSettings


@pytest.fixture(scope="module")
def encoder(policy_folder: Path) -> PromptEncoder:
    return PromptEncoder(str(policy_folder))


@pytest.fixture(scope="module")
def prompts(encoder: PromptEncoder) -> list[Prompt]:
    return [encoder.encode(problem) for problem in problems(3)]


@pytest.fixture
def policy(policy_folder: Path) -> Policy:
    return Policy.from_pretrained(str(policy_folder))


class _Poisoned(LUSPO):
    """Not finite for one problem: in the loss, or only in the gradient."""

    def __init__(self, uid: str, where: str) -> None:
        super().__init__()
        self.uid, self.where = uid, where

    def __call__(self, stats: TokenStats, batch: Batch, plan: Plan) -> Loss:
        loss = super().__call__(stats, batch, plan)
        if self.uid not in {prompt.uid for prompt in batch.prompts}:
            return loss
        zero = (stats.logprobs * 0).sum()
        # the derivative of sqrt at 0 is infinite
        poison = zero * float("nan") if self.where == "loss" else zero.sqrt()
        return loss._replace(terms={name: sums + poison for name, sums in loss.terms.items()})


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_update_that_is_not_finite_is_skipped_and_named(
    policy: Policy, encoder: PromptEncoder, prompts: list[Prompt], where: str
) -> None:
    before = weights(policy)
    poisoned = _Poisoned(prompts[1].uid, where)
    module = run_module(build_module(policy, encoder, objective=poisoned), prompts)
    after = weights(policy)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert module.skipped_updates == [[prompt.uid for prompt in prompts]]
    assert module.metrics[0]["optim/skipped_updates"] == 1
    assert not {"policy/loss", "optim/grad_norm"} & module.metrics[0].keys()


def test_only_the_minibatch_that_is_not_finite_is_skipped(
    policy: Policy, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    before = weights(policy)
    module = build_module(
        policy,
        encoder,
        objective=_Poisoned(prompts[1].uid, "loss"),
        updates=UpdateSettings(num_minibatches=3),
        steps=2,
    )
    run_module(module, prompts)
    assert module.skipped_updates == [[prompts[1].uid]] * 2
    assert len(module.gradients) == 4
    assert module.metrics[0]["optim/skipped_updates"] == pytest.approx(1 / 3)
    after = weights(policy)
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_too_many_skipped_updates_in_a_row_stop_the_run(
    policy: Policy, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    module = build_module(
        policy,
        encoder,
        objective=_Poisoned(prompts[0].uid, "loss"),
        updates=UpdateSettings(max_skipped_updates=2),
        steps=9,
    )
    with pytest.raises(RuntimeError, match=rf"3 updates in a row.*{prompts[0].uid}.*optimizer\.lr"):
        run_module(module, prompts)
    assert len(module.skipped_updates) == 3


@pytest.mark.parametrize(("mebibytes", "again"), [(512, 0), (0, 1)])
def test_a_frozen_tower_sees_an_image_once_in_a_step_or_in_the_run(
    policy_folder: Path, encoder: PromptEncoder, prompts: list[Prompt], mebibytes: int, again: int
) -> None:
    policy = Policy.from_pretrained(str(policy_folder), freeze=["vision_tower"])
    seen: list[None] = []
    policy.part("vision_tower").register_forward_pre_hook(
        lambda tower, _: seen.append(None) if tower.training else None  # the engine's are not ours
    )
    parts = {
        "objective": GRPO(regularizers=[KL(0.1)]),  # with a reference, and two updates
        "updates": UpdateSettings(num_minibatches=2, vision_cache_mib=mebibytes),
        "steps": 2,
    }
    module = run_module(build_module(policy, encoder, **parts), prompts)
    assert len(module.gradients) == 4
    assert len(seen) == len(prompts) == 3
    assert module.forwards.kept is not None
    module.forwards.kept.prepare(prompts[:1])
    module.forwards.kept.prepare(prompts[1:])
    assert len(seen) == 3 + 2 * again


class _CutOff(Scripted):
    """Answers that end in dots were cut off at the budget."""

    def _with(self, completion: Completion, logprobs: Tensor, length: int) -> Completion:
        done = super()._with(completion, logprobs, length)
        return replace(done, finish_reason="length") if done.text.endswith("..") else done


def test_truncated_completions_can_be_left_out_of_the_loss(
    policy_folder: Path, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    engine = _CutOff({prompts[0].uid: ["aaaa", "b..", "cc=7", "12.."]})
    runs = {}
    for kept in (True, False):
        policy = Policy.from_pretrained(str(policy_folder)).double()
        settings = UpdateSettings(max_grad_norm=None, train_on_truncated=kept)
        module = build_module(policy, encoder, engine=engine, updates=settings)
        runs[kept] = run_module(module, prompts[:1])
    masks = {kept: run.batches[0].completion_mask.any(-1) for kept, run in runs.items()}
    assert masks[True].tolist() == [True] * 4
    assert masks[False].tolist() == [True, False, True, False]
    # they stay in their group's mean: the advantages of the others are the same
    assert torch.equal(runs[False].batches[0].advantages, runs[True].batches[0].advantages)
    assert runs[False].metrics[0]["completion/truncated_frac"] == 0.5
    gradients = [runs[kept].gradients[0] for kept in (True, False)]
    assert any(not torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_frozen_vision_tower_does_not_change(
    policy_folder: Path, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    policy = Policy.from_pretrained(str(policy_folder), freeze=["vision_tower"])
    before = weights(policy)
    settings = OptimizerSettings(lr=1e-2, weight_decay=0.1)
    run_module(build_module(policy, encoder, optimizer=settings, steps=2), prompts)
    assert _changed_parts(policy, before) == {"language_model"}


class _Touch(L.Callback):
    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        with torch.no_grad():
            next(module.policy.part("vision_tower").parameters()).flatten()[3] += 1e-6


def test_frozen_parameter_that_changed_ends_the_run_with_an_error(
    policy_folder: Path, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    policy = Policy.from_pretrained(str(policy_folder), freeze=["vision_tower"])
    with pytest.raises(AssertionError, match="a frozen parameter has changed"):
        run_module(build_module(policy, encoder), prompts, _Touch())


def test_vision_lr_is_a_learning_rate_of_its_own(
    policy: Policy, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    before = weights(policy)
    settings = OptimizerSettings(lr=1e-3, vision_lr=0.0, weight_decay=0.1)
    run_module(build_module(policy, encoder, optimizer=settings), prompts)
    assert _changed_parts(policy, before) == {"language_model"}


def test_both_parts_learn_by_default(
    policy: Policy, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    before = weights(policy)
    run_module(build_module(policy, encoder), prompts)
    assert _changed_parts(policy, before) == {"language_model", "vision_tower"}


def _changed_parts(policy: Policy, before: dict[str, torch.Tensor]) -> set[str]:
    after = weights(policy)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    return {"vision_tower" if ".visual." in name else "language_model" for name in changed}


def test_wholly_frozen_policy_is_refused(
    policy_folder: Path, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    both = ["vision_tower", "language_model"]
    policy = Policy.from_pretrained(str(policy_folder), freeze=both).requires_grad_(False)
    with pytest.raises(ValueError, match=r"leave one out of policy\.freeze"):
        run_module(build_module(policy, encoder), prompts)


def test_old_logprobs_are_cut_as_the_updates_are_so_that_bf16_ratios_are_1(
    policy_folder: Path,
) -> None:
    """In bf16 another packing rounds otherwise; noise of 4e-3 would fill GSPO's band of 3e-4."""
    policy = Policy.from_pretrained(str(policy_folder))
    encoder = PromptEncoder(str(policy_folder))
    settings = UpdateSettings(num_minibatches=2, micro_batch_tokens=10**6)
    module = build_module(policy, encoder, updates=settings)
    prompts = [encoder.encode(problem) for problem in problems(4)]
    groups = [[completion_of(range(40, 50 + row))] * 2 for row in range(4)]
    rows = Rows.build(prompts, groups, torch.ones(4, 2, dtype=torch.bool))
    with torch.autocast("cpu", torch.bfloat16):
        cut = module.lockstep.cut(rows, Places.of([4]))
        old = module.forwards.logprobs(policy, rows, cut)
        batch = Batch.of(rows, old_logprobs=old, ref_logprobs=None, advantages=torch.ones(4, 2))
        for minibatch in cut.minibatches(batch):
            (forward,) = minibatch.forwards
            now = policy.logprobs(forward, temperature=module.sampling.temperature).logprobs
            assert torch.equal(now, forward.old_logprobs)


def test_frozen_language_model_holds_its_head_still(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    untied = Policy.from_pretrained(str(checkpoints["qwen2_5_vl"])).model
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.detach().clone())
    for config in (untied.config, untied.config.get_text_config()):
        config.tie_word_embeddings = False
    untied.save_pretrained(tmp_path)
    policy = Policy.from_pretrained(str(tmp_path), freeze=["language_model"])
    assert not policy.model.lm_head.weight.requires_grad
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert trained
    assert all("visual" in name for name in trained)
