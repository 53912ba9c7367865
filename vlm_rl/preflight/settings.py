"""Inspections of the configuration: versions, what goes together, the run's folder, W&B."""

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement

from vlm_rl.errors import joined
from vlm_rl.memory.model_shape import count
from vlm_rl.preflight.remarks import Remark, ok, stop, told, warning
from vlm_rl.preflight.start import Start
from vlm_rl.run import folder as run_folder
from vlm_rl.run.checks import CONSISTENCY, check_ranks, check_routers
from vlm_rl.run.length_gradients import LengthGradients
from vlm_rl.trackers import check_trackers, check_wandb

SHOWN = ("torch", "lightning", "transformers")


def versions(start: Start) -> Iterator[Remark]:
    """Compare the installed packages with what this one was made for."""
    needed = [Requirement(line) for line in requires("vlm_rl") or []]
    wrong = [
        f"{one.name} {version(one.name)} (needs {one.specifier})"
        for one in needed
        if one.marker is None and not one.specifier.contains(version(one.name), prereleases=True)
    ]
    if wrong:
        yield warning(
            f"other versions than tested: {', '.join(wrong)}",
            "pip install --constraint constraints.txt vlm_rl",
        )
    else:
        shown = ", ".join(f"{name} {version(name)}" for name in ("vlm_rl", *SHOWN))
        yield ok(f"{shown}, Python {sys.version.partition(' ')[0]}")


def consistency(start: Start) -> Iterator[Remark]:
    """Name the keys that do not go together, all of them."""
    config, parts = start.config, start.parts
    faults = list(_refusals(partial(check, config, parts) for check in CONSISTENCY))
    yield from faults
    if not faults:
        yield ok(
            f"{config.steps} steps of {config.data.prompts_per_step} prompts and "
            f"{config.group_size} completions each, {parts.updates.num_minibatches} updates a step"
        )


def model(start: Start) -> Iterator[Remark]:
    """Name what engine, strategy and settings cannot do with this model on these ranks."""
    parts, trainer, checkpoint = start.parts, start.trainer, start.checkpoint
    gradients = LengthGradients(start.config.length_gradients)
    checks = [
        partial(check_ranks, trainer, parts, checkpoint),
        partial(gradients.check, parts.objective, trainer.world_size),
        partial(check_routers, parts, checkpoint),
        partial(parts.engine.check_model, checkpoint),
    ]
    faults = list(_refusals(checks))
    yield from faults
    if not faults:
        yield ok(
            f"{checkpoint.model_type} with {type(parts.engine).__name__} on {trainer.world_size} x "
            f"{trainer.strategy.root_device.type}"
        )


def learning(start: Start) -> Iterator[Remark]:
    """Say whether anything can be learned: there are trained weights, and a learning rate."""
    optimizer, shape = start.parts.optimizer, start.shape
    rates = {"optimizer.lr": optimizer.lr}
    if optimizer.vision_lr is not None:
        rates["optimizer.vision_lr"] = optimizer.vision_lr
    zero = [name for name, rate in rates.items() if rate == 0]
    if not shape.trained:
        yield stop(
            "every part of the policy is frozen, so nothing would be learned",
            "leave a part out of policy.freeze, or set policy.lora",
        )
    elif zero:
        kind = stop if len(zero) == len(rates) else warning
        yield kind(
            f"{' and '.join(f'{name}=0' for name in zero)}: these weights would never move",
            "set it: 1e-6 is usual for whole models, 1e-5 for LoRA",
        )
    else:
        share = count(shape.trained) / count(shape.weights)
        yield ok(
            f"{share:.0%} of {count(shape.weights):,} weights are trained, lr {optimizer.lr:g}"
        )


def folder(start: Start) -> Iterator[Remark]:
    """Say whether the folder of the run can be written, and what is in it."""
    run_dir = Path(start.config.run_dir)
    faults = list(_refusals([partial(run_folder.own, run_dir, "run_dir")]))
    if faults:
        yield from faults
        return
    try:
        newest = run_folder.find_resume(run_dir, start.resolved)
    except ValueError as error:
        yield told(joined(str(error)))
        return
    if newest is None:
        yield ok(f"run_dir={run_dir} can be written and holds no checkpoint")
    else:
        yield ok(f"run_dir={run_dir} holds this run; it goes on from step {newest.step}")


def trackers(start: Start) -> Iterator[Remark]:
    """Say whether W&B and the other trackers take the run."""
    mode = start.config.logging.wandb
    others = start.config.logging.trackers
    checks = [partial(check_wandb, mode), partial(check_trackers, others)]
    faults = list(_refusals(checks))
    yield from faults
    if not faults:
        yield ok(f"logging.wandb={mode}, logging.trackers={others}")


def _refusals(checks: Iterable[Callable[[], object]]) -> Iterator[Remark]:
    """Yield what each of `checks` refuses."""
    for check in checks:
        try:
            check()
        except ValueError as error:
            yield told(joined(str(error)))
