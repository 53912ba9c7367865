"""Gradients by length: the weighted LRE and both sides of theorem 2.1 of FSPO (arXiv:2509.09177).

In length bin k of mass m_k, g_k is the mean gradient of its sequences without a clip, and c_k with
it; q_k is the share that is accepted. Then

    cosine = cos(sum_k m_k c_k, sum_k m_k g_k)                  the theorem's left side
    LRE_w = 1/2 sum_k m_k |q_k / q - 1| |g_k| / E|g|            q = sum_k m_k q_k, appendix B.1
    bound = (1 - rho) / (1 + rho), rho = kappa (eta + 2 (1 + eta) LRE_w)

with kappa = E|g| / |sum_k m_k g_k| and eta the largest |c_k / q_k - g_k| / |g_k|. The paper prints
(1 + eta) LRE without the 2. But E|q_k - q| = 2 q LRE, as it says itself, and the 2 is lost in the
next line: with two bins of opposite gradients its rho is half the true one.

The bound says nothing (it is below 0) once rho passes 1.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BinGradient:
    """What one bin adds: the sizes of its mean gradients, and how far the clip turns them.

    `turn` is |c / q - g| / |g|, None if nothing is accepted or g is 0.
    """

    count: int
    accepted: float
    norm: float
    turn: float | None


class GradientTally:
    """Adds up bins one at a time, so that memory holds two sums and not the gradients of all."""

    def __init__(self) -> None:
        self.bins: list[BinGradient] = []
        self._plain: Tensor | float = 0.0
        self._clipped: Tensor | float = 0.0

    def add(self, count: int, accepted: float, plain: Tensor, clipped: Tensor) -> None:
        """Add a bin of `count` sequences: the sums [n] of their gradients without and with the
        clip, and the share that is accepted."""
        self._plain = self._plain + plain
        self._clipped = self._clipped + clipped
        norm = float(plain.norm()) / count
        turned = (clipped / accepted - plain).norm() if accepted > 0 and norm > 0 else None
        turn = None if turned is None else float(turned) / count / norm
        self.bins.append(BinGradient(count, accepted, norm, turn))

    def metrics(self) -> dict[str, float]:
        """Return `length/...`; empty without a gradient or if nothing is accepted."""
        counts = torch.tensor([part.count for part in self.bins], dtype=torch.float64)
        q = torch.tensor([part.accepted for part in self.bins], dtype=torch.float64)
        norms = torch.tensor([part.norm for part in self.bins], dtype=torch.float64)
        if not self.bins or not norms.sum() or not q.sum():
            return {}
        assert isinstance(self._plain, Tensor)
        assert isinstance(self._clipped, Tensor)
        mass = counts / counts.sum()
        mean_q, mean_norm = (mass * q).sum(), (mass * norms).sum()
        weighted = float((mass * (q / mean_q - 1).abs() * norms).sum() / mean_norm / 2)
        # as `sampling_floor`, with the weights of the bins
        spread = torch.sqrt((1 - mean_q).clamp(min=0) / (mean_q * counts))
        floor = (mass * spread * norms).sum() / mean_norm * math.sqrt(2 / math.pi) / 2
        values = {
            "lre_weighted": weighted,
            "lre_weighted_floor": float(floor),
            "lre_of_gradients": float((mass * (q / mean_q - 1).abs()).sum() / 2),
            "q_of_gradients": float(mean_q),
        }
        total, clipped = float(self._plain.norm()), float(self._clipped.norm())
        if total > 0 and clipped > 0:
            values["update_cosine"] = float(self._plain @ self._clipped) / total / clipped
            kappa = float(mean_norm * counts.sum()) / total
            eta = max((part.turn for part in self.bins if part.turn is not None), default=0.0)
            rho = kappa * (eta + 2 * (1 + eta) * weighted)
            values["update_cosine_bound"] = (1 - rho) / (1 + rho)
        return {f"length/{name}": value for name, value in values.items()}
