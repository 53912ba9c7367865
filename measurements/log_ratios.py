"""How far a policy moves within a rollout, by length of the completion: what a band must hold.

    python -m measurements.log_ratios --run_dir runs/log_ratios

trains the quickstart for 40 steps with four updates per rollout and a band that never clips. Prints
quantiles of the mean and the sum of a sequence's log-ratios, and the spread of the sums by length.
About 75 seconds on one core.
"""

import sys
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlm_rl.fit import fit
from vlm_rl.model.logprobs import TokenStats
from vlm_rl.objectives import LUSPO, Loss, Plan, Tokens
from vlm_rl.records import Batch

SETTINGS = (
    "--config=configs/quickstart.yaml",
    "--objective=measurements.log_ratios.Unclipped",
    "--steps=40",
    "--updates.num_minibatches=4",
    "--updates.max_grad_norm=null",
    "--validation.every_n_steps=40",
    "--data.val_problems=128",
    "--logging.wandb=off",
)
EDGES = (4, 7, 18, 21, 24, 30, 38, 60)


class Unclipped(LUSPO):
    """LUSPO with a band from 0.1 to 10; keeps the sum of log-ratios and the length of each row."""

    seen: ClassVar[list[tuple[Tensor, Tensor]]] = []

    def __init__(self) -> None:
        super().__init__(clip_low=0.9, clip_high=9.0)

    def __call__(self, stats: TokenStats, batch: Batch, plan: Plan) -> Loss:
        moved = Tokens.of(stats.logprobs.detach(), batch).log_ratio
        if moved.abs().max() > 1e-4:  # not in the first update of a rollout
            self.seen.append((moved.sum(-1), batch.lengths))
        return super().__call__(stats, batch, plan)


def report() -> None:
    sums = torch.cat([moved for moved, _ in Unclipped.seen])
    lengths = torch.cat([length for _, length in Unclipped.seen]).float()
    sums, lengths = sums[lengths > 0], lengths[lengths > 0]
    kinds: dict[str, Any] = {
        "mean log-ratio": sums / lengths,
        "sum S": sums,
        "S / sqrt(L)": sums / lengths.sqrt(),
    }
    print(
        "| absolute value, quantile | 50 % | 70 % | 80 % | 90 % |\n| --- | --- | --- | --- | --- |"
    )
    for name, values in kinds.items():
        quantiles = torch.quantile(values.abs(), torch.tensor([0.5, 0.7, 0.8, 0.9]))
        print(f"| {name} | {' | '.join(f'{value:.2g}' for value in quantiles)} |")
    print("\n| length | sequences | mean length | mean abs(S) | over sqrt(L) |")
    print("| --- | --- | --- | --- | --- |")
    for least, end in pairwise(EDGES):
        own = (lengths >= least) & (lengths < end)
        length, spread = lengths[own].mean(), sums[own].abs().mean()
        cells = (f"{length:.1f}", f"{spread:.3f}", f"{spread / length.sqrt():.4f}")
        print(f"| {least} to {end - 1} | {int(own.sum())} | {' | '.join(cells)} |")


if __name__ == "__main__":
    # by its import path, so that this class is the one that the configuration names
    from measurements import log_ratios

    fit([*SETTINGS, *sys.argv[1:]])
    log_ratios.report()
