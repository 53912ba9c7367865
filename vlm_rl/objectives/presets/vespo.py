"""VESPO (arXiv:2602.10693): the ratio of the whole sequence through a kernel that falls to 0."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vlm_rl.objectives.aggregations import TokenMean
from vlm_rl.objectives.presets.preset import Parts, Preset
from vlm_rl.objectives.ratios import EngineSequenceSumRatio, SequenceSumRatio
from vlm_rl.objectives.surrogates import Surrogate, SurrogateLoss
from vlm_rl.objectives.tokens import Tokens


class SequenceKernel(Surrogate):
    """-sg[phi(W)] A log pi, phi(W) = e^decay W^power e^(-decay W), W the ratio of the sequence.

    phi(1) = 1, and phi is largest at W = power / decay. The sign of the advantage selects the two
    constants. No token loses its whole gradient, so every token is inside.
    """

    only_ratios = (SequenceSumRatio,)
    through_ratio = False
    scales_with_advantage = True

    def __init__(
        self,
        power_positive: float,
        decay_positive: float,
        power_negative: float,
        decay_negative: float,
    ) -> None:
        constants = {
            "power_positive": power_positive,
            "decay_positive": decay_positive,
            "power_negative": power_negative,
            "decay_negative": decay_negative,
        }
        for name, value in constants.items():
            if not value > 0:
                raise ValueError(
                    f"{name} must be > 0, got {value}; else the weight does not fall to 0 on both "
                    "sides, take 2 or 3"
                )
        self.positive = (power_positive, decay_positive)
        self.negative = (power_negative, decay_negative)

    def __call__(self, log_ratio: Tensor, tokens: Tokens) -> SurrogateLoss:
        fixed = log_ratio.detach()
        # not a product of powers: the ratio may be infinite while the kernel is 0
        positive, negative = (
            torch.exp(decay + power * fixed - decay * fixed.exp())
            for power, decay in (self.positive, self.negative)
        )
        weight = torch.where(tokens.advantages > 0, positive, negative)
        return SurrogateLoss.unclipped(-weight * tokens.advantages * tokens.logprobs)


@dataclass(eq=False)
class VESPO(Preset):
    """sum_it -sg[phi(W_i)] A_i log pi_it / sum_i L_i, W_i = exp(sum_t log-ratio).

    Published: power 2 and decay 3 for A > 0, 3 and 2 for A < 0. `behaviour` is what W is relative
    to. "old": the trainer's probabilities at the weights that sampled. "engine": the probabilities
    that the engine sampled with, which puts the mismatch of the two into W.
    """

    power_positive: float = 2.0
    decay_positive: float = 3.0
    power_negative: float = 3.0
    decay_negative: float = 2.0
    behaviour: Literal["old", "engine"] = "old"

    def parts(self) -> Parts:
        ratio = {"old": SequenceSumRatio, "engine": EngineSequenceSumRatio}[self.behaviour]()
        kernel = SequenceKernel(
            self.power_positive, self.decay_positive, self.power_negative, self.decay_negative
        )
        return ratio, kernel, TokenMean()
