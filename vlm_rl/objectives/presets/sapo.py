"""SAPO (Soft Adaptive Policy Optimization, arXiv:2511.20347): a soft gate instead of a clip."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vlm_rl.objectives.aggregations import SequenceMeanOfTokenMeans
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import TokenRatio
from vlm_rl.objectives.surrogates import MAX_LOG_RATIO, Surrogate, SurrogateLoss
from vlm_rl.objectives.tokens import Tokens


class SoftGate(Surrogate):
    """-f(r) A with f(r) = 4 / tau sigmoid(tau (r - 1)), tau by the sign of the advantage.

    f'(1) = 1, and f' falls to 0 on both sides, faster for a larger tau. f(1) = 2 / tau is not 1,
    which shifts the loss but not its gradient. Nothing is cut off, so every token is inside.
    """

    scales_with_advantage = True

    def __init__(self, temperature_positive: float, temperature_negative: float) -> None:
        temperatures = {
            "temperature_positive": temperature_positive,
            "temperature_negative": temperature_negative,
        }
        for name, value in temperatures.items():
            if not value > 0:
                raise ValueError(
                    f"{name} must be > 0, got {value}; it is the gate's steepness, take 1"
                )
        self.temperature_positive = temperature_positive
        self.temperature_negative = temperature_negative

    def __call__(self, log_ratio: Tensor, tokens: Tokens) -> SurrogateLoss:
        ratio = torch.exp(log_ratio.clamp(max=MAX_LOG_RATIO))
        positive, negative = (
            4 / tau * torch.sigmoid(tau * (ratio - 1))
            for tau in (self.temperature_positive, self.temperature_negative)
        )
        gate = torch.where(tokens.advantages > 0, positive, negative)
        return SurrogateLoss.unclipped(-gate * tokens.advantages)


@dataclass(eq=False)
class SAPO(Preset):
    """(1/N) sum_i (1/L_i) sum_t -(4 / tau_i) sigmoid(tau_i (r_it - 1)) A_i.

    Published: tau 1 for A > 0 and 1.05 for A < 0.
    """

    temperature_positive: float = 1.0
    temperature_negative: float = 1.05

    def parts(self) -> Parts:
        gate = SoftGate(self.temperature_positive, self.temperature_negative)
        return TokenRatio(), gate, SequenceMeanOfTokenMeans()
