"""How the weights of a policy lie on this rank, for whoever reads them without knowing why."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from vlm_rl.model.weights import named_weights


class Shards:
    """All weights whole on this rank: what a policy starts with, one device and DDP keep.

    A strategy that shards weights gives the policy a subclass of its own. Each method but `own` is
    a collective then: every rank must call it, and exhaust or leave what it returns.
    """

    are_whole = True
    """Whether this rank can write the weights as they are."""

    def own(self, parameter: Tensor) -> Tensor:
        """Return what this rank holds of a parameter."""
        return parameter

    @contextmanager
    def gathered(self, policy: nn.Module) -> Iterator[None]:
        """Hold all weights whole inside, so that ranks may run unequal numbers of forwards."""
        yield

    def weights(
        self, model: nn.Module, *, merge_adapters: bool, only: Collection[str] | None
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight by name, or `only` some, gathered one by one."""
        yield from named_weights(model, merge_adapters=merge_adapters, only=only)
