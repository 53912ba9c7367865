"""How far a policy moves within a rollout, by length of the completion: what a band must hold.

    python -m measurements.log_ratios --run_dir runs/log_ratios

trains the quickstart for 40 steps with four updates per rollout and a band that never clips. Prints
quantiles of the mean and the sum of a sequence's log-ratios, the spread of the sums by length, and
the LRE of each form of band at equal E q, which it also writes to `equal_q.json` of the run's
folder. About 75 seconds on one core.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlm_rl.config import parse
from vlm_rl.disk.files import write_text
from vlm_rl.fit import build_parser, fit
from vlm_rl.metrics.equal_acceptance import FairnessAtQ, at_equal_q
from vlm_rl.model.logprobs import TokenStats
from vlm_rl.objectives import LUSPO, Loss, Plan, Tokens
from vlm_rl.records import Batch
from vlm_rl.show.json_text import json_text

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
SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
EQUAL_Q = "equal_q.json"


class Unclipped(LUSPO):
    """LUSPO with a band from 0.1 to 10; keeps the log-ratios of each row and its mask."""

    seen: ClassVar[list[tuple[Tensor, Tensor]]] = []

    def __init__(self) -> None:
        super().__init__(clip_low=0.9, clip_high=9.0)

    def __call__(self, stats: TokenStats, batch: Batch, plan: Plan) -> Loss:
        tokens = Tokens.of(stats.logprobs.detach(), batch)
        if tokens.log_ratio.abs().max() > 1e-4:  # not in the first update of a rollout
            self.seen.append((tokens.log_ratio, tokens.mask))
        return super().__call__(stats, batch, plan)


def joined() -> tuple[Tensor, Tensor]:
    """Return log-ratios and mask [B, T] of all rows that have a token."""
    width = max(mask.shape[1] for _, mask in Unclipped.seen)
    moved, masks = (
        torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])
        for parts in zip(*Unclipped.seen, strict=True)
    )
    return moved[masks.any(-1)], masks[masks.any(-1)]


def report(run_dir: Path) -> None:
    """Print all tables; write `equal_q.json`."""
    moved, mask = joined()
    sums, lengths = moved.sum(-1), mask.sum(-1).float()
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
    fairness = at_equal_q(moved, mask, SHARES)
    write_text(run_dir / EQUAL_Q, json_text([asdict(one) for one in fairness]) + "\n")
    print_fairness(fairness)


def print_fairness(fairness: Sequence[FairnessAtQ]) -> None:
    print("\n| band | E q | half width | LRE | chance |\n| --- | --- | --- | --- | --- |")
    for one in fairness:
        cells = (f"{one.q:.2f}", f"{one.width:.3g}", f"{one.lre:.3f}", f"{one.floor:.3f}")
        print(f"| {one.form} | {' | '.join(cells)} |")


if __name__ == "__main__":
    # by its import path, so that this class is the one that the configuration names
    from measurements import log_ratios

    arguments = [*SETTINGS, *sys.argv[1:]]
    fit(arguments)
    log_ratios.report(Path(parse(build_parser(), arguments).run_dir))
