"""What a run says of itself before anything is read, so that a wrong setting is seen at once."""

from jsonargparse import Namespace
from lightning import Trainer

from vlm_rl import ranks


def banner(config: Namespace, parts: Namespace, trainer: Trainer, family: str) -> list[str]:
    """Return the lines: objective and size of the run, its policy, where it runs and writes.

    Of several `--config` files the last that names an objective wins, which these lines show.
    """
    objective, advantage = (type(part).__name__ for part in (parts.objective, parts.advantage))
    size = (
        f"{config.steps} steps x {config.data.prompts_per_step} problems x {config.group_size} "
        f"completions of up to {parts.sampling.max_completion_tokens} tokens"
    )
    terms = " + ".join(f"{term.weight:g} {name}" for name, term in parts.reward.terms.items())
    device = trainer.strategy.root_device.type
    return [
        f"{config.run_dir}: {objective}, advantage {advantage}, reward {terms}",
        f"  {size}",
        f"  policy {config.policy.path} ({family}), {trainer.precision}, "
        f"{trainer.world_size} x {device}, engine {type(parts.engine).__name__}",
    ]


def say_banner(config: Namespace, parts: Namespace, trainer: Trainer, family: str) -> None:
    """Print the banner on rank 0."""
    for line in banner(config, parts, trainer, family):
        ranks.print_once(line)
