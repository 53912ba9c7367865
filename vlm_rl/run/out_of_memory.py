"""What to lower when memory is short: the settings that decide it, by activity, in numbers."""

from collections.abc import Iterator, Mapping
from typing import Any

SAMPLING = ("sampling.max_completion_tokens", "group_size", "data.prompts_per_step")
FORWARDS = ("updates.micro_batch_tokens", "sampling.max_completion_tokens")
"""Settings whose halving halves what an activity holds, the one that costs least first."""

HALVED: Mapping[str, tuple[str, ...]] = {
    "rollout": SAMPLING,
    "validation": SAMPLING,
    "reward": SAMPLING,
    "logprobs": FORWARDS,
    "update": FORWARDS,
}
SMALLEST = {"group_size": 2}


def advice(config: Mapping[str, Any], activity: str) -> str:
    """Say which settings to change and how, for a run of this resolved configuration."""
    changes = [*_halved(config, activity), *_switched(config, activity)]
    if not changes:
        return "free memory of this machine; python -m vlm_rl.hardware says what the run needs"
    return f"try {', or '.join(changes)}; python -m vlm_rl.hardware says what the run needs"


def _halved(config: Mapping[str, Any], activity: str) -> Iterator[str]:
    for key in HALVED.get(activity, ()):
        now = _at(config, key)
        lower = max(SMALLEST.get(key, 1), int(now) // 2)
        if lower < now:
            yield f"{key}={lower} (now {now})"


def _switched(config: Mapping[str, Any], activity: str) -> Iterator[str]:
    engine = _at(config, "engine.init_args") or {}
    share = engine.get("gpu_memory_utilization")
    if share is not None and activity in ("rollout", "weights", "update", "logprobs", "start"):
        yield f"engine.init_args.gpu_memory_utilization={share / 2:g} (now {share:g})"
    if activity in ("update", "logprobs") and not _at(config, "policy.gradient_checkpointing"):
        yield "policy.gradient_checkpointing=true (now false)"
    if activity in ("start", "update", "checkpoint"):
        if _at(config, "trainer.strategy") in ("auto", "ddp"):
            yield f"trainer.strategy=fsdp2 on more devices (now {_at(config, 'trainer.strategy')})"
        if _at(config, "policy.lora") is None:
            yield "LoRA (policy.lora, now null)"


def _at(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
