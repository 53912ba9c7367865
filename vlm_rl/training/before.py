"""What forwards without gradients say of the policy before the first update of a step."""

from collections.abc import Sequence
from typing import NamedTuple, Self

from torch import Tensor

from vlm_rl.distributed.lockstep import Cut
from vlm_rl.metrics.routing import RouterTally, loads_by_row
from vlm_rl.model.logprobs import TokenStats
from vlm_rl.records import Rows


class Before(NamedTuple):
    """`logprobs` [B, T], NaN in rows that no forward has; `expert_loads` as in `Batch`; and what
    the `routers` did."""

    logprobs: Tensor
    expert_loads: Tensor | None
    routers: RouterTally

    @classmethod
    def of(cls, rows: Rows, cut: Cut, stats: Sequence[TokenStats]) -> Self:
        """Put together the `stats` of each forward of `cut`."""
        routers = RouterTally()
        for of_forward in stats:
            routers.add(of_forward.routing)
        loads = None
        if any(s.routing is not None and s.routing.loads is not None for s in stats):
            forwards = zip(cut.forwards(rows), stats, strict=True)
            of_rows = [loads_by_row(s.routing, forward.completion_mask) for forward, s in forwards]
            loads = cut.by_row(rows, of_rows)
        return cls(cut.joined(rows, [s.logprobs for s in stats]), loads, routers)

    @classmethod
    def unknown(cls, rows: Rows, cut: Cut) -> Self:
        """Leave it to the forwards of a single update."""
        return cls(cut.joined(rows), None, RouterTally())
