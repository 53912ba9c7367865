"""The check that comes before every measurement: both sides compute the same numbers."""

import torch
from torch import Tensor, nn

from measurements.against_trl.ours import Ours
from measurements.against_trl.trl_side import Theirs

LIMIT = 1e-4


class Differ(RuntimeError):
    """The two sides do not do the same work, so their times cannot be compared."""


def check(ours: Ours, theirs: Theirs, limit: float = LIMIT) -> dict[str, float]:
    """Return how far the sides are apart: log-probs and loss, and the gradient relative to it.

    Vision placeholders are in our softmax meanwhile, as TRL bans them from sampling only. Raises
    Differ if something is above `limit`, or not finite.
    """
    with ours.nothing_banned():
        apart = {
            "log-probs": float((ours.logprobs() - theirs.logprobs()).abs().max()),
            "loss": abs(ours.update() - theirs.update()),
            "gradient": _gradients_apart(ours.policy.model, theirs.trainer.model),
        }
    for name, value in apart.items():
        if not value <= limit:
            raise Differ(
                f"the {name} of the two sides differ by {value:.2g}, above {limit:g}; "
                "nothing is timed until they agree"
            )
    for model in (ours.policy, theirs.trainer.model):
        model.zero_grad(set_to_none=True)
    return apart


def _gradients_apart(ours: nn.Module, theirs: nn.Module) -> float:
    """Return |difference| / |gradient| over all parameters."""
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    squares = [(_square(a.grad, b.grad), _square(b.grad, None)) for a, b in pairs]
    difference, size = (sum(column) for column in zip(*squares, strict=True))
    return float((difference / size) ** 0.5)


def _square(gradient: Tensor | None, less: Tensor | None) -> float:
    """Return the squared norm of a difference; a parameter without a gradient has 0."""
    if gradient is None:
        return 0.0 if less is None else _square(less, None)
    return float((gradient if less is None else gradient - less).double().square().sum())


def near_old_logprobs(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Return old log-probabilities whose ratios lie on both sides of the clip's ends."""
    noise = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(2))
    return torch.where(mask, logprobs + 0.2 * noise.to(logprobs.device), 0.0)
