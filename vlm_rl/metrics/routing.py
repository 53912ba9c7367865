"""What the routers of a mixture of experts did, over the tokens that updates compute.

`router/entropy` is in nats, a mean over tokens and routers. Of the choices at each router, over all
updates of a step and all ranks, and then averaged over routers:

    router/most_loaded_frac  share of the expert that is chosen most
    router/load_cv           standard deviation of the experts' shares over their mean
    router/unused_frac       share of the experts that no token has chosen

Against the experts that the engine chose for the same tokens, at the same weights:

    drift/experts_differ_frac        share of tokens and routers where the two sets differ
    drift/experts_differ_token_frac  share of tokens where they differ at some router

No token is dropped: experts have no capacity. No padding is counted: a packed row has none.
"""

from typing import Self

import torch
from torch import Tensor

from vlm_rl import ranks
from vlm_rl.metrics.statistic import Statistics, add_up
from vlm_rl.model.routing import RouterStats
from vlm_rl.records import Statistic


class RouterTally:
    """Adds up what the routers did in several forwards; of a policy without experts, nothing.

    `counts` [L, E]: how often each router chose each expert, None before the first forward.
    """

    def __init__(self) -> None:
        self.counts: Tensor | None = None
        self.entropy: Statistics = {}
        self.drift: Statistics = {}

    def add(self, routing: RouterStats | None) -> Self:
        if routing is None:
            return self
        self.counts = routing.counts if self.counts is None else self.counts + routing.counts
        size = torch.tensor(len(routing.entropy))
        self.entropy = add_up(
            self.entropy, {"router/entropy": Statistic(routing.entropy.double().sum(), size)}
        )
        known, differing = routing.known.sum(), routing.differing
        pairs = Statistic(differing.sum(), known * len(routing.counts))
        own = {
            "drift/experts_differ_frac": pairs,
            "drift/experts_differ_token_frac": Statistic((differing > 0).sum(), known),
        }
        self.drift = add_up(self.drift, own)
        return self


def load_metrics(tallies: list[RouterTally]) -> dict[str, float]:
    """Return how evenly the experts were chosen, over all tallies and all ranks.

    Every rank calls it with equally many tallies.
    """
    counts = [tally.counts for tally in tallies if tally.counts is not None]
    if not counts:
        return {}
    total = ranks.all_sum(torch.stack(counts).sum(0)).double()
    if not total.sum():
        return {}
    shares = total / total.sum(-1, keepdim=True)
    deviation = shares.std(-1, correction=0) * shares.shape[-1]
    return {
        "router/most_loaded_frac": float(shares.amax(-1).mean()),
        "router/load_cv": float(deviation.mean()),
        "router/unused_frac": float((shares == 0).double().mean()),
    }


def loads_by_row(routing: RouterStats | None, mask: Tensor) -> Tensor:
    """Return [B, E]: how often each expert was computed for the tokens of each row, the mean over
    routers. `mask` [B, T] are those tokens."""
    assert routing is not None, "asked of a policy with experts only"
    assert routing.loads is not None, "the forward was with_balance"
    owner = mask.nonzero()[:, 0].to(routing.loads.device)
    whole = routing.loads.new_zeros(len(mask), routing.loads.shape[1])
    return whole.index_add(0, owner, routing.loads)
