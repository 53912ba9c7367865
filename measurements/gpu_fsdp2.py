"""Memory, speed and MFU of the update of a random Qwen2.5-VL-3B under FSDP2 in bfloat16.

    python -m measurements.gpu_fsdp2                                   (one GPU of 80 GB)
    torchrun --nproc_per_node 8 -m measurements.gpu_fsdp2 --prompts 64 (several; also nodes)
    python -m measurements.gpu_fsdp2 --scale tiny                      (a CPU, seconds)

Runs three steps of vlm_rl's own training module through Lightning. The real image processor encodes
random images of real sizes, and completions are random and of one length: nothing is sampled and
nothing is downloaded. Needs torch, transformers and lightning, but neither vLLM nor weights.

A parameter takes 16 bytes (float32 weight, gradient and AdamW's two moments): 60 GB for 3.75e9 on
one GPU, besides what the forward keeps. MFU counts what the mathematics of a step needs, by
`vlm_rl.metrics.flops`. It counts neither what gradient checkpointing computes again nor the forward
of the old log-probabilities, which is timed separately.

`--compare` first runs the same steps on one device without FSDP2, where weights stay float32 and
autocast rounds, and prints how much losses and gradient norms differ. That run needs about 15 GB
more, for AdamW's intermediate values, which sharded weights do not need.
"""

import argparse
import gc
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import vlm_rl  # noqa: F401  (before anything that imports torchvision)

# isort: split
import lightning as L
import torch
from rich.console import Console
from rich.table import Table

from measurements.random_qwen import (
    SCALES,
    build_config,
    build_encoder,
    build_policy,
    build_prompts,
)
from vlm_rl import ranks
from vlm_rl.advantages import Centered
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.distributed import strategies
from vlm_rl.metrics.devices import peak_tflops_here
from vlm_rl.metrics.flops import ModelFlops, Work
from vlm_rl.model.packing import Packed
from vlm_rl.model.policy import Policy
from vlm_rl.objectives import LUSPO, EntropyBonus
from vlm_rl.records import Completion, Groups, Problem, Prompt, Scores, Verdict
from vlm_rl.rollout import Engine, Sampling
from vlm_rl.training.module import RLModule
from vlm_rl.training.settings import OptimizerSettings, UpdateSettings, ValidationSettings


class Replayed(Engine):
    """Random completions, the same for a problem at every step."""

    def start(self, policy: Policy, encoder: PromptEncoder, sampling: Sampling) -> None:
        self._num_ids = len(encoder.tokenizer) - len(encoder.tokenizer.all_special_ids)

    def update_weights(self, policy: Policy) -> None:
        """Do nothing: completions do not depend on the weights."""

    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        length = sampling.max_completion_tokens
        groups = []
        for prompt in prompts:
            generator = torch.Generator().manual_seed(int(prompt.uid))
            ids = torch.randint(self._num_ids, (group_size, length), generator=generator)
            groups.append([Completion(row, torch.zeros(length), "length", "") for row in ids])
        return groups


def coins(problems: Sequence[Problem], groups: Groups) -> Scores:
    """Reward every other completion of a group."""
    right = [[index % 2 == 0 for index, _ in enumerate(group)] for group in groups]
    total = torch.tensor(right, dtype=torch.float64)
    verdicts = [[Verdict.CORRECT if r else Verdict.WRONG for r in row] for row in right]
    return Scores({"coin": total}, total, verdicts, {"coin": 1.0})


class Prompts(L.LightningDataModule):
    """The given prompts at every step, split over ranks as vlm_rl.data.datamodule does."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        super().__init__()
        self.prompts = prompts

    def train_dataloader(self) -> "Prompts":
        return self

    def __iter__(self) -> Iterator[list[Prompt]]:
        while True:
            yield list(self.prompts[ranks.rank() :: ranks.world_size()])

    def transfer_batch_to_device(self, batch: Any, device: torch.device, _: int) -> Any:
        return batch


@dataclass
class Step:
    """One step on this rank: seconds by phase, and the work of the update's forwards."""

    metrics: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    positions: int = 0
    completion_tokens: int = 0
    flops: float = 0.0


class Meter(L.Callback):
    """Record steps with their clock, which waits for the device at the start of each phase."""

    def __init__(self, flops: ModelFlops) -> None:
        self.steps: list[Step] = []
        self._flops = flops
        self._stage, self._since = "", 0.0

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        module.clock.listen(self._turn)
        module.policy.register_forward_pre_hook(lambda _, given: self._count(given[0]))

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        self.steps.append(Step())
        self._turn("other")

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, *_: Any) -> None:
        self._turn("")
        self.steps[-1].metrics = outputs["step"].metrics

    def _turn(self, stage: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._stage:
            seconds = self.steps[-1].seconds
            seconds[self._stage] = seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now

    def _count(self, packed: Packed) -> None:
        if self._stage == "update":
            step = self.steps[-1]
            step.positions += packed.token_ids.shape[1]
            step.completion_tokens += len(packed.targets)
            grids = [image.grid_thw[0].tolist() for image in packed.images.values()]
            work = Work(tuple(packed.groups), tuple((height, width) for _, height, width in grids))
            step.flops += self._flops.training(work)


def train(
    arguments: argparse.Namespace, strategy: str, encoder: PromptEncoder, prompts: Sequence[Prompt]
) -> Meter:
    """Train three steps under `strategy`, from the same weights each time."""
    scale = SCALES[arguments.scale]
    config = build_config(scale)
    policy = build_policy(config, scale.num_parameters)
    meter = Meter(ModelFlops(policy))
    module = RLModule(
        policy=policy,
        encoder=encoder,
        engine=Replayed(),
        reward=coins,
        advantage=Centered(),
        # at ratio 1 and one length the policy term is 0: a loss to look at
        objective=LUSPO(regularizers=[EntropyBonus(1e-3)]),
        sampling=Sampling(1.0, arguments.tokens),
        updates=UpdateSettings(micro_batch_tokens=arguments.micro_batch_tokens),
        optimizer=OptimizerSettings(),
        validation=ValidationSettings(),
        group_size=arguments.group_size,
        steps=arguments.steps,
        seed=0,
    )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    trainer = L.Trainer(
        accelerator="auto",
        devices=here,
        num_nodes=int(os.environ.get("WORLD_SIZE", "1")) // here,
        strategy=strategies.build(strategy),
        precision=arguments.precision,
        callbacks=[meter],
        max_epochs=-1,
        logger=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=Prompts(prompts))
    return meter


def peak_memory_gb() -> dict[str, float]:
    """Return the largest peak of all ranks since the training began."""
    if not torch.cuda.is_available():
        return {}
    own = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
    largest = [max(column) / 1e9 for column in zip(*ranks.gather(own), strict=True)]
    return dict(zip(("allocated", "reserved"), largest, strict=True))


def summarize(meter: Meter, peak: float | None) -> dict[str, Any]:
    """Return the numbers of the last step, since the first warms up; work is that of all ranks."""
    everyone = ranks.gather(meter.steps)
    last = [steps[-1] for steps in everyone]
    seconds = max(step.seconds["update"] for step in last)
    flops = sum(step.flops for step in last)
    mfu = None if peak is None else flops / seconds / (peak * 1e12 * len(last))
    return {
        "processes": len(last),
        "positions": sum(step.positions for step in last),
        "completion_tokens": sum(step.completion_tokens for step in last),
        "update_s": seconds,
        "positions_per_s": sum(step.positions for step in last) / seconds,
        "completion_tokens_per_s": sum(step.completion_tokens for step in last) / seconds,
        "update_tflop": flops / 1e12,
        "mfu": mfu,
        "peak_memory_gb": peak_memory_gb(),
        "seconds": [step.seconds for step in meter.steps],
        "losses": [step.metrics.get("policy/loss") for step in meter.steps],
        "grad_norms": [step.metrics.get("optim/grad_norm") for step in meter.steps],
    }


def largest_difference(sharded: dict[str, Any], plain: dict[str, Any]) -> dict[str, float]:
    """Return the largest differences relative to the run without FSDP2."""
    return {
        name: max(abs(a / b - 1) for a, b in zip(sharded[name], plain[name], strict=True))
        for name in ("losses", "grad_norms")
    }


def print_summary(summary: dict[str, Any], title: str) -> None:
    console = Console()
    table = Table(title=title)
    for heading in ("update of the last step", "value"):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    memory = summary["peak_memory_gb"] or dict.fromkeys(("allocated", "reserved"))
    mfu = summary["mfu"]
    for name, value in {
        "peak GPU memory, allocated": _gb(memory["allocated"]),
        "peak GPU memory, reserved": _gb(memory["reserved"]),
        "prompt and completion tokens / s": f"{summary['positions_per_s']:,.0f}",
        "completion tokens / s": f"{summary['completion_tokens_per_s']:,.0f}",
        "model TFLOP": f"{summary['update_tflop']:.4g}",
        "MFU": "peak not known, give --peak_tflops" if mfu is None else f"{mfu:.1%}",
    }.items():
        table.add_row(name, value)
    console.print(table)
    for number, seconds in enumerate(summary["seconds"], 1):
        phases = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
        loss, norm = summary["losses"][number - 1], summary["grad_norms"][number - 1]
        skipped = (
            "update skipped, not finite" if loss is None else f"loss {loss:.4g}, grad {norm:.4g}"
        )
        console.print(f"step {number}: {sum(seconds.values()):.2f} s ({phases}); {skipped}")
    if "difference" in summary:
        apart = ", ".join(f"{name} {value:.2g}" for name, value in summary["difference"].items())
        console.print(f"relative to one device without FSDP2: {apart}", soft_wrap=True)


def _gb(value: float | None) -> str:
    return "no GPU" if value is None else f"{value:.1f} GB"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="3b")
    parser.add_argument("--strategy", choices=("fsdp2", "fsdp2_offload", "ddp"), default="fsdp2")
    parser.add_argument("--precision", choices=("bf16-mixed", "32-true"), default="bf16-mixed")
    parser.add_argument("--steps", type=int, default=3)
    for name in SCALES["3b"].work:
        parser.add_argument(f"--{name}", type=int, help="default: that of the scale")
    parser.add_argument("--peak_tflops", type=float, help="of the device, dense bfloat16")
    parser.add_argument("--compare", action="store_true", help="one process only")
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")
    arguments = parser.parse_args(argv)
    for name, value in SCALES[arguments.scale].work.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.compare and os.environ.get("WORLD_SIZE", "1") != "1":
        parser.error("--compare runs on one device: start a single process")
    return arguments


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, print and return the numbers."""
    arguments = parse(argv)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    scale = SCALES[arguments.scale]
    encoder = build_encoder(arguments.max_pixels)
    prompts = build_prompts(encoder, scale.sizes, arguments.prompts)
    peak = arguments.peak_tflops or peak_tflops_here()
    plain = None
    if arguments.compare:
        plain = summarize(train(arguments, "auto", encoder, prompts), peak)
        gc.collect()
        torch.cuda.empty_cache()
    summary = summarize(train(arguments, arguments.strategy, encoder, prompts), peak)
    if plain is not None:
        summary["difference"] = largest_difference(summary, plain)
    if ranks.is_zero():
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        print_summary(
            summary,
            f"{scale.num_parameters:,} parameters, {arguments.strategy} {arguments.precision}, "
            f"{summary['processes']} x {device}, {arguments.prompts} prompts x "
            f"{arguments.group_size} completions x {arguments.tokens} tokens",
        )
        if arguments.json:
            arguments.json.write_text(json.dumps(summary, indent=2) + "\n")
    return summary


if __name__ == "__main__":
    main()
