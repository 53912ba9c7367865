"""LRE of several bands at the same E q, on the same sequences: what a band treats unfairly, without
how wide it is.

Log-ratios of a run that clips nothing are judged afterwards by symmetric bands, each as wide as it
must be for the wanted share. An LRE goes to 0 as E q goes to 1, so that LREs of runs whose bands
keep different shares compare the widths too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlm_rl.metrics.length import report_of
from vlm_rl.objectives import Sequences

FORMS = ("ratio per token", "mean of the sequence", "sum", "sum / sqrt(L)")
"""Bands of GRPO and Dr.GRPO; of GSPO and LUSPO; of RLOO-IS; of FSPO without drift."""


@dataclass(frozen=True)
class FairnessAtQ:
    """The band of half width `width` that keeps `q`, its LRE, and the LRE that chance gives."""

    form: str
    q: float
    width: float
    lre: float
    floor: float


def at_equal_q(log_ratios: Tensor, mask: Tensor, shares: Sequence[float]) -> list[FairnessAtQ]:
    """Judge sequences of `log_ratios` [B, T], 0 in the padding, by each form at each of `shares`.

    `mask` [B, T] marks their tokens, at least one each. The share that a band keeps is that of a
    sequence's tokens, on average over sequences; it is met as far as equal log-ratios allow.
    """
    lengths = mask.sum(-1)
    values = _values(log_ratios.double(), mask, lengths)
    found = []
    for form in FORMS:
        for share in shares:
            own, tokens = values[form]
            width = _width(own, tokens, share)
            inside = _inside(own, tokens, width)
            report = report_of(_judged(lengths, inside), None)
            assert report.lre_inside is not None, "a share above 0 is kept"
            assert report.lre_inside_floor is not None
            q = float(inside.mean())
            found.append(FairnessAtQ(form, q, width, report.lre_inside, report.lre_inside_floor))
    return found


def _values(
    log_ratios: Tensor, mask: Tensor, lengths: Tensor
) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Map form -> what its band is about, as absolute values, and which of them are there."""
    sums, once = log_ratios.sum(-1, keepdim=True), torch.ones(len(mask), 1, dtype=torch.bool)
    counts = lengths[:, None].double()
    return {
        "ratio per token": (log_ratios.abs(), mask),
        "mean of the sequence": ((sums / counts).abs(), once),
        "sum": (sums.abs(), once),
        "sum / sqrt(L)": ((sums / counts.sqrt()).abs(), once),
    }


def _width(values: Tensor, there: Tensor, share: float) -> float:
    """Return the half width at which sequences keep `share` on average: a quantile in which a
    sequence weighs 1, whatever its number of values."""
    weights = (there / there.sum(-1, keepdim=True))[there]
    ordered, order = values[there].sort()
    kept = weights[order].cumsum(0) / len(values)
    index = min(int(torch.searchsorted(kept, share - 1e-9)), len(ordered) - 1)
    return float(ordered[index])


def _inside(values: Tensor, there: Tensor, width: float) -> Tensor:
    return ((values <= width) & there).sum(-1) / there.sum(-1)


def _judged(lengths: Tensor, inside: Tensor) -> Sequences:
    nothing = torch.zeros_like(inside)
    return Sequences(
        lengths, inside, inside, nothing, nothing, nothing, weight=nothing, push=nothing
    )
