"""The sampler that a checkpoint ships, which no engine here takes over."""

from transformers import GenerationConfig

from vlm_rl.rollout.engine import WHOLE_SOFTMAX, Sampling


def unused_sampler(path: str, sampling: Sampling) -> str | None:
    """A line that names what the checkpoint's `generation_config.json` asks for and a run with
    `sampling` does otherwise; None where there is nothing to say."""
    try:
        shipped = GenerationConfig.from_pretrained(path)
    except (OSError, ValueError, TypeError):  # none there, or none that can be read
        return None
    ours = {name: getattr(sampling, name) for name in ("temperature", *WHOLE_SOFTMAX)}
    asked = {name: getattr(shipped, name, None) for name in ours}
    other = [f"{n}={v}" for n, v in asked.items() if v is not None and v != ours[n]]
    if not other:
        return None
    used = ", ".join(f"{name}={value:g}" for name, value in ours.items())
    return (
        f"generation_config.json of {path} is not used ({', '.join(other)}); sampling is as the "
        f"run's config says: {used}"
    )
