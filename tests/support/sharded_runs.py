"""Trains the same tiny policies under one strategy in several real processes that meet over gloo.

`python sharded_runs.py SPEC_JSON` with `checkpoints` (a folder by family), `out` (a folder) and
`runs`: a list of {"strategy", "processes", "cases"}. Every process of a run trains its share of
each case; the first writes `out/STRATEGY_PROCESSES_CASE.pt`. With "argv" in place of "cases" it is
a command line of `vlm_rl.fit`, and "status" what every process must end with (0); with "weigh", a
checkpoint, every process writes what memory it takes to begin. One process imports everything and
forks the others: importing takes longer than such a run.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import vlm_rl  # noqa: F401  (before anything that imports torchvision)

# isort: split
import lightning as L
import torch

from tests.support.forked import forked
from tests.support.replayed import Judge, Replayed, ReplayedExperts
from tests.support.run_helpers import build_module
from tests.support.sharded_cases import CASES, MIXED, Case
from tests.support.tiny import problem
from tests.support.watching import Exchanges, Scales
from vlm_rl import fit as command_line
from vlm_rl import ranks
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.distributed import strategies
from vlm_rl.distributed.weights import whole_weights
from vlm_rl.model.policy import Policy
from vlm_rl.model.weights import full, is_adapter
from vlm_rl.records import Prompt
from vlm_rl.rollout import Sampling
from vlm_rl.run.length_report import LengthFairness
from vlm_rl.training.module import OptimizerSettings, UpdateSettings

GROUP_SIZE = 4


class Shared(L.LightningDataModule):
    """The given prompts at every step, shared out as `ProblemData` does."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        super().__init__()
        self.prompts = prompts

    def train_dataloader(self) -> "Shared":
        return self

    def __iter__(self) -> Iterator[list[Prompt]]:
        while True:
            yield list(self.prompts[ranks.rank() :: ranks.world_size()])

    def transfer_batch_to_device(self, batch: Any, device: torch.device, _: int) -> Any:
        return batch


def train(
    case: Case, checkpoint: str, strategy: str, num_processes: int, *callbacks: L.Callback
) -> dict[str, Any]:
    """Metrics of each step and the weights at the end, the same on every process."""
    encoder = PromptEncoder(checkpoint)
    prompts = [encoder.encode(problem(*MIXED[uid], uid=uid)) for uid in case.uids]
    exchanges = Exchanges()
    watching = [*callbacks, LengthFairness(Path("no validation writes here")), exchanges]
    trainer = build_trainer(strategy, num_processes, case.precision, watching)
    policy = Policy.from_pretrained(
        checkpoint,
        freeze=case.freeze,
        gradient_checkpointing=case.checkpointing,
        lora=case.lora,
        router_replay=case.router_replay,
        empty=not strategies.of(trainer.strategy).loads_weights,
    ).to(case.dtype)
    module = build_module(
        policy,
        encoder,
        engine=ReplayedExperts() if case.router_replay else Replayed(),
        reward=Judge(case.unscored, case.equal),
        objective=case.objective,
        advantage=case.advantage,
        sampling=Sampling(1.0, 14),
        steps=case.steps,
        updates=UpdateSettings(
            num_minibatches=case.minibatches,
            micro_batch_tokens=case.micro_tokens,
            max_grad_norm=0.05,
        ),
        optimizer=OptimizerSettings(lr=1e-3, weight_decay=0.1),
        group_size=GROUP_SIZE,
    )
    trainer.fit(module, datamodule=Shared(prompts))
    weights = {name: w.detach().clone() for name, w in whole_weights(policy)}
    if policy.has_adapters:
        state = policy.model.state_dict()
        weights |= {name: full(w).clone() for name, w in state.items() if is_adapter(name)}
    return {
        "metrics": module.metrics,
        "weights": weights,
        "skipped": module.skipped_updates,
        "exchanges": exchanges.by_step,
        "minibatches": case.minibatches,
    }


def build_trainer(
    strategy: str, num_processes: int, precision: str, callbacks: Sequence[L.Callback]
) -> L.Trainer:
    return L.Trainer(
        callbacks=list(callbacks),
        accelerator="cpu",
        devices=num_processes,
        precision=precision,  # type: ignore[arg-type]
        strategy=strategies.build(strategy, precision),
        max_epochs=-1,
        logger=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def run(spec: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
    strategy, num_processes = entry["strategy"], entry["processes"]
    if "argv" in entry:
        command_line.fit(
            [*entry["argv"], f"--trainer.devices={num_processes}", f"--trainer.strategy={strategy}"]
        )
        return
    if "weigh" in entry:
        case = Case(CASES["sequence_mean"]().objective, steps=1, dtype=torch.float32)
        scales = Scales()
        train(case, entry["weigh"], strategy, num_processes, scales)
        Path(spec["out"], f"{ranks.rank()}.json").write_text(json.dumps(scales.read))
        return
    for name in entry["cases"]:
        case = CASES[name]()
        result = train(case, spec["checkpoints"][case.family], strategy, num_processes)
        if ranks.rank() == 0:
            torch.save(result, Path(spec["out"], f"{strategy}_{num_processes}_{name}.pt"))
        for step in result["metrics"]:
            untimed = {key: v for key, v in step.items() if not key.startswith("time/")}
            parts = ranks.gather(untimed)
            assert all(repr(part) == repr(parts[0]) for part in parts), name


def main() -> None:
    spec = json.loads(sys.argv[1])
    if any(entry["strategy"].startswith("zero") for entry in spec["runs"]):
        import deepspeed  # noqa: F401
    for entry in spec["runs"]:
        start = time.perf_counter()
        work = lambda entry=entry: run(spec, entry)  # noqa: E731
        forked(entry["processes"], work, entry.get("status", 0))
        seconds = time.perf_counter() - start
        print(f"{entry['strategy']} {entry['processes']}: {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
