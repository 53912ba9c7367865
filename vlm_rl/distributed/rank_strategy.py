"""What the training step asks of a strategy, and the answers of one that replicates all weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import Tensor
from torch.distributed.tensor import DTensor

from vlm_rl.model.policy import Policy
from vlm_rl.model.reference import Reference, reference_of
from vlm_rl.records import Rows


class RankStrategy:
    """The part of a strategy that the training step calls; the defaults replicate all weights."""

    root_device: torch.device
    gathers_within_step: str | None = None
    """Name of a strategy that can gather weights within a training step only, otherwise None."""

    @property
    def loads_weights(self) -> bool:
        """Whether this rank loads the policy's weights itself, rather than receive its shards."""
        return True

    def check_adapters(self) -> None:
        """Raise ValueError if LoRA adapters cannot be trained under this strategy."""

    def check_recurrences(self) -> None:
        """Raise ValueError if layers with a recurrent state cannot be trained under this
        strategy."""

    def spread(self, policy: Policy, *, with_reference: bool) -> Reference | None:
        """Shard the weights of a policy in place and make its reference; call once, before the
        optimizer is built."""
        return reference_of(policy).to(self.root_device) if with_reference else None

    def begin(self, policy: Policy, forward: Rows) -> None:
        """Run what must precede every other forward; `forward` has no rows."""

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Enclose the forward and backward of a micro-batch, the `last` of its update or not."""
        yield

    def apply_gradients(
        self, optimizer: Any, parameters: Sequence[Tensor], *, limit: float | None, loss: Tensor
    ) -> Tensor:
        """Scale gradients down to a global norm of `limit` and step if they and `loss` are finite.

        Returns the norm that they had.
        """
        trained = [parameter for parameter in parameters if parameter.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(trained, float("inf") if limit is None else limit)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if bool(loss.isfinite() & norm.isfinite()):
            optimizer.step()
            # the Trainer's autocast spans all updates of a step, and would go on with its bfloat16
            # copies of the weights before this one
            torch.clear_autocast_cache()
        return norm


class Replicated(RankStrategy):
    """Lightning's strategies for one device and for DDP."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy

    @property
    def root_device(self) -> torch.device:  # type: ignore[override]
        return self._strategy.root_device

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Average gradients over ranks in the `last` backward only."""
        if isinstance(self._strategy, DDPStrategy) and not last:
            with self._strategy.block_backward_sync():
                yield
        else:
            yield
