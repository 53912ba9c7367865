"""Count the bytes that real training runs hold, on several ranks that meet over gloo.

`python measured_runs.py CHECKPOINT OUT` trains for two updates as each of `CASES` says. Rank 0
writes `OUT/CASE.json`: the bytes that it holds of weights, gradients and AdamW's moments in the
second update, of the reference, and how many modules are gathered one by one.
"""

import json
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import vlm_rl  # noqa: F401  (before anything that imports torchvision)

# isort: split
import lightning as L
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from tests.support.forked import forked
from tests.support.replayed import Judge, Replayed
from tests.support.run_helpers import build_module
from tests.support.sharded_cases import MIXED
from tests.support.sharded_runs import Shared
from tests.support.tiny import problem
from vlm_rl import ranks
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.distributed import strategies
from vlm_rl.model.lora import LoraSettings
from vlm_rl.model.policy import Policy
from vlm_rl.objectives import GRPO, KL

CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "alone": ("auto", 1, {}),
    "ddp_frozen": ("ddp", 2, {"freeze": ("vision_tower",)}),
    "fsdp2_frozen": ("fsdp2", 3, {"freeze": ("vision_tower",)}),
    "fsdp2_lora": ("fsdp2", 2, {"lora": LoraSettings(rank=4)}),
}
"""Strategy, number of ranks, arguments of the policy; all with a KL to the reference."""


class Measure(L.Callback):
    def __init__(self, out: Path) -> None:
        self.out = out

    def on_before_optimizer_step(self, _: L.Trainer, module: Any, optimizer: Any) -> None:
        moments = [s[key] for s in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
        if not moments or ranks.rank():
            return
        parameters, reference = list(module.policy.parameters()), module.reference
        held = {
            "weights": _bytes(parameters),
            "gradients": _bytes(p.grad for p in parameters if p.grad is not None),
            "moments": _bytes(moments),
            "reference": 0,
            "parts": sum(isinstance(m, FSDPModule) for m in module.policy.modules()),
        }
        if reference is not None:
            policys = {p.untyped_storage().data_ptr() for p in map(_local, parameters)}
            own = map(_local, reference.policy.parameters())
            held["reference"] = _bytes(
                p for p in own if p.untyped_storage().data_ptr() not in policys
            )
        self.out.write_text(json.dumps(held))


def _local(tensor: Any) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(_local(tensor).nbytes for tensor in tensors)


def train(checkpoint: str, out: Path, case: str) -> None:
    strategy, num_ranks, arguments = CASES[case]
    encoder = PromptEncoder(checkpoint)
    module = build_module(
        Policy.from_pretrained(checkpoint, **arguments),
        encoder,
        engine=Replayed(),
        reward=Judge(""),
        objective=GRPO(regularizers=[KL(0.1)]),
        steps=2,
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=num_ranks,
        strategy=strategies.build(strategy),
        max_epochs=-1,
        logger=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[Measure(out / f"{case}.json")],
    )
    prompts = [encoder.encode(problem(*MIXED[uid], uid=uid)) for uid in "013"]
    trainer.fit(module, datamodule=Shared(prompts))


if __name__ == "__main__":
    for name, (_, number, _) in CASES.items():
        forked(number, partial(train, sys.argv[1], Path(sys.argv[2]), name))
