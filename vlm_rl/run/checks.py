"""What parts of a configuration must agree about, checked before a model is loaded."""

from collections.abc import Callable
from typing import Any

import lightning as L
from jsonargparse import Namespace

from vlm_rl import ranks
from vlm_rl.data.datamodule import ProblemData
from vlm_rl.data.prompts import ANSWER_STYLE_OF
from vlm_rl.distributed import strategies
from vlm_rl.model.experts import check_experts
from vlm_rl.model.families import family_of
from vlm_rl.model.lora import check_lora
from vlm_rl.parts import path_of
from vlm_rl.rewards import Reward
from vlm_rl.training.settings import check_groups


def check_consistency(config: Namespace, parts: Namespace) -> None:
    """Refuse keys that do not go together, before a model is loaded. Raises ValueError."""
    for check in CONSISTENCY:
        check(config, parts)


def _check_minibatches(config: Namespace, parts: Namespace) -> None:
    prompts, minibatches = config.data.prompts_per_step, parts.updates.num_minibatches
    if minibatches > prompts:
        raise ValueError(
            f"updates.num_minibatches={minibatches} is above data.prompts_per_step={prompts}; "
            "each minibatch needs at least one prompt"
        )


def _check_sampling(config: Namespace, parts: Namespace) -> None:
    check_groups(config.group_size, parts.sampling)
    if parts.edit is not None:
        parts.edit.check(config.group_size, parts.updates.train_on_truncated)
    parts.engine.check(parts.sampling)
    if parts.overlap is not None:
        parts.overlap.check(parts.engine, parts.objective)


def _check_trained(config: Namespace, parts: Namespace) -> None:
    lora = parts.policy.lora
    check_lora(lora, config.policy.freeze)
    if config.checkpoint.merge_adapter and lora is None:
        raise ValueError(
            "checkpoint.merge_adapter=true merges LoRA adapters, but policy.lora is not set; set "
            "it, or leave merge_adapter out"
        )
    frozen = config.policy.freeze if lora is None else {"vision_tower"} - set(lora.parts)
    if parts.optimizer.vision_lr is not None and "vision_tower" in frozen:
        raise ValueError(
            f"optimizer.vision_lr={parts.optimizer.vision_lr} is for the vision tower, which "
            f"policy.{'freeze' if lora is None else 'lora'} does not train; drop one of them"
        )


def _check_reward(config: Namespace, parts: Namespace) -> None:
    if parts.kl_in_reward is not None:
        parts.kl_in_reward.check(parts.objective, parts.updates.train_on_truncated)
    if parts.reward.factors and parts.advantage.reads_terms:
        raise ValueError(
            f"advantage {path_of(parts.advantage)} reads the terms of the reward, and would leave "
            f"out reward.factors {', '.join(parts.reward.factors)}; take another of the two"
        )


def _check_answers(config: Namespace, parts: Namespace) -> None:
    accuracy, reads = parts.reward.accuracy, ANSWER_STYLE_OF.get(config.prompt.style)
    if accuracy is not None and reads is not None and accuracy.answer_style != reads:
        raise ValueError(
            f"prompt.style={config.prompt.style} asks for an answer that the accuracy term does "
            f"not read: its answer_style must be {reads}, got {accuracy.answer_style}"
        )
    if accuracy is None and parts.benchmarks is not None:
        raise ValueError(
            "benchmarks need a term that reads answers; add class_path vlm_rl.rewards.Accuracy to "
            "reward.terms, of weight 0 if it shall not count, or leave benchmarks out"
        )


def check_routers(parts: Namespace, model: Any) -> None:
    """Refuse what only a mixture of experts has, and an engine that does not name its experts.
    Raises ValueError."""
    replays = parts.policy.router_replay
    check_experts(
        model,
        {
            "policy.freeze=[router]": "router" in parts.policy.freeze,
            "policy.router_replay=true": replays,
            "the regularizer LoadBalance": parts.objective.needs_routing,
        },
    )
    if replays and not parts.engine.returns_experts:
        raise ValueError(
            f"policy.router_replay=true takes the experts that the engine chose, which "
            f"{type(parts.engine).__name__} does not return; leave it out, or take "
            "TransformersEngine"
        )


def check_ranks(trainer: L.Trainer, parts: Namespace, model: Any) -> None:
    """Check what the strategy and the engine can do on these ranks with a model of this
    configuration. Raises ValueError."""
    strategy = strategies.of(trainer.strategy)
    if parts.policy.lora is not None:
        strategy.check_adapters()
    if family_of(model).recurrence is not None:
        strategy.check_recurrences()
    parts.engine.check_ranks(
        world_size=trainer.world_size,
        num_nodes=trainer.num_nodes,
        devices_per_node=trainer.num_devices,
        gathers_within_step=strategy.gathers_within_step,
    )


def check_golds(data: ProblemData, reward: Reward) -> None:
    """Name the problems that no answer can be scored for. Raises ValueError if bad rows stop a run;
    otherwise they stay, are counted as `reward/error_frac`, and train nothing."""
    lines = reward.unusable([*data.train_set, *data.val_set])
    if lines and data.on_bad_row == "stop":
        raise ValueError(
            f"{lines[0]}, or set data.on_bad_row to skip; {len(lines)} such problems in all"
        )
    for line in lines:
        ranks.print_once(line)


def _check_filter(config: Namespace, parts: Namespace) -> None:
    """Refuse a filter that drops the only groups that a part pays. Raises ValueError."""
    group_filter = parts.dynamic_sampling
    if group_filter is None or not group_filter.drops_all_right:
        return
    pays = {f"reward term {name}": term for name, term in parts.reward.terms.items()}
    if parts.shaping is not None:
        pays["shaping"] = parts.shaping
    for place, part in pays.items():
        if part.needs_all_right:
            raise ValueError(
                f"{place} {path_of(part)} pays groups in which all is right, which "
                f"dynamic_sampling {path_of(group_filter)} drops; take "
                "vlm_rl.training.SomeCorrect, or leave one out"
            )


CONSISTENCY: tuple[Callable[[Namespace, Namespace], None], ...] = (
    _check_minibatches,
    _check_sampling,
    _check_trained,
    _check_reward,
    _check_filter,
    _check_answers,
)
"""What must go together in a configuration and its parts; each raises ValueError for its own."""
