"""The training runs that every strategy must end alike: what is learned from, and how.

The smallest ones of each kind: uneven groups, problems without images on some process, an update
in which nothing is scored, all families.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from vlm_rl import advantages, objectives
from vlm_rl.model.families import FAMILIES
from vlm_rl.model.lora import LoraSettings

MIXED = {
    "0": ("Count them: <image>", (32, 64)),
    "1": ("Compute.",),
    "2": ("Is <image> more than <image>?", (48, 48), (32, 80)),
    "3": ("No picture here either, but a longer text.",),
    "4": ("<image>", (64, 64)),
    "5": ("What is 17 + 4?",),
}
"""Of two processes the second has no image."""


@dataclass(frozen=True)
class Case:
    """One training run of `steps` steps on replayed rollouts."""

    objective: objectives.Objective
    advantage: advantages.Advantage = field(default_factory=advantages.Centered)
    family: str = "qwen2_5_vl"
    uids: str = "012345"
    unscored: str = ""
    equal: str = ""
    steps: int = 3
    minibatches: int = 1
    micro_tokens: int = 60
    dtype: torch.dtype = torch.float64
    freeze: tuple[str, ...] = ()
    checkpointing: bool = False
    lora: LoraSettings | None = None
    precision: str = "32-true"
    router_replay: bool = False


CASES: dict[str, Callable[[], Case]] = {
    "token_mean": lambda: Case(objectives.DAPO(), advantages.Whitened()),
    "sequence_mean": lambda: Case(
        objectives.GRPO(regularizers=[objectives.KL(0.1)]), advantages.RankGaussian(), minibatches=2
    ),
    "sequence_sum": lambda: Case(objectives.LUSPO(), family="qwen3_vl", uids="01234"),
    "constant": lambda: Case(
        objectives.DrGRPO(constant_tokens=16),
        advantages.BatchNormalized(),
        minibatches=4,
    ),
    "covariance": lambda: Case(
        objectives.GRPO(
            token_weights=[objectives.ClipCov(frac=0.1, low=-1.0, high=1.0)],
            regularizers=[objectives.EntropyBand(0.01)],
        ),
        micro_tokens=10_000,
    ),
    "groups": lambda: Case(
        objectives.ConSPO(0.5, 0.1, 0.1, 1),
        advantages.VerdictSigns(),
        uids="01234",
        minibatches=2,
        micro_tokens=1,
    ),
    "masked_process": lambda: Case(objectives.DAPO(), unscored="135", micro_tokens=1),
    "text": lambda: Case(objectives.LUSPO(), uids="1355", steps=2),
    "text_then_images": lambda: Case(objectives.LUSPO(), uids="513024", minibatches=3, steps=2),
    "frozen_tower": lambda: Case(objectives.LUSPO(), freeze=("vision_tower",), checkpointing=True),
    "left_out": lambda: Case(objectives.LUSPO(), equal="1234", steps=3),
    "left_out_twice": lambda: Case(objectives.LUSPO(), equal="0345", minibatches=2),
    "nobody_scored": lambda: Case(objectives.LUSPO(), unscored="012345", steps=1),
    "lora": lambda: Case(
        objectives.GRPO(regularizers=[objectives.KL(0.1)]),
        dtype=torch.float32,
        lora=LoraSettings(4, 8, ("language_model", "vision_tower")),
    ),
    "mixture": lambda: Case(
        objectives.GRPO(regularizers=[objectives.LoadBalance(0.5)]),
        family="qwen3_vl_moe",
        uids="01234",
        minibatches=2,
        checkpointing=True,
    ),
    "hybrid_mixture": lambda: Case(
        objectives.DAPO(regularizers=[objectives.LoadBalance(0.5)]), family="qwen3_5_moe", steps=2
    ),
    "mixed": lambda: Case(
        objectives.LUSPO(), minibatches=2, dtype=torch.float32, precision="bf16-mixed"
    ),
    "single": lambda: Case(objectives.LUSPO(), minibatches=2, dtype=torch.float32),
    "twenty": lambda: Case(
        objectives.LUSPO(regularizers=[objectives.KL(0.1)]),
        uids="0134",
        steps=20,
        dtype=torch.float32,
    ),
}

HYBRIDS = tuple(family for family, entry in FAMILIES.items() if entry.recurrence is not None)
MIXTURES = tuple(family for family, entry in FAMILIES.items() if entry.routers is not None)


def _of_family(family: str, **options: Any) -> Case:
    """Rollouts in which no token lies between two experts of a tiny mixture: rounding would choose
    there, and one token's other experts move weights by more than any tolerance of this dtype."""
    objective = objectives.LUSPO(regularizers=[objectives.KL(0.1)])
    given = {"uids": "2045", "steps": 2, "minibatches": 2}
    given |= {"dtype": torch.float32, "checkpointing": True} | options
    return Case(objective, family=family, **given)


CASES |= {f"full_{family}": partial(_of_family, family) for family in FAMILIES}
CASES |= {
    f"lora_{family}": partial(
        _of_family, family, lora=LoraSettings(4, 8, ("language_model", "vision_tower"))
    )
    for family in FAMILIES
}
CASES |= {
    f"{name}_{family}": partial(_of_family, family, freeze=("vision_tower",), precision=precision)
    for family in HYBRIDS
    for name, precision in (("frozen", "32-true"), ("mixed", "bf16-mixed"))
}


def _replayed(family: str, precision: str) -> Case:
    """Every token has its experts from the engine, so that rounding exchanges none. No KL: its
    reference chooses for itself."""
    case = _of_family(family, precision=precision, router_replay=True)
    return replace(case, objective=objectives.LUSPO())


CASES |= {
    f"replayed{name}_{family}": partial(_replayed, family, precision)
    for family in MIXTURES
    for name, precision in (("", "32-true"), ("_mixed", "bf16-mixed"))
}
