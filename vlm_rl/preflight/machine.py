"""Inspections of the machine: memory by arithmetic, disk, and the time of the run."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from vlm_rl.memory.estimate import PHASES, USABLE
from vlm_rl.memory.layers import FLOAT
from vlm_rl.memory.model_shape import count
from vlm_rl.preflight.remarks import Remark, ok, stop
from vlm_rl.preflight.start import Start
from vlm_rl.run.out_of_memory import advice

GB = 1e9
BYTES_A_TOKEN = 12
"""In `rollouts/`: an id of 6 digits and 4 letters of text; `BYTES_A_ROW` for the rest of a row."""
BYTES_A_ROW = 600
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_ACTIVITIES = {"step": "update", "exchange": "weights"}


def memory(start: Start) -> Iterator[Remark]:
    """Say whether a device holds each phase of a step, and the host what is on it."""
    needs, (size, name) = start.memory, device_memory(start)
    by_phase = {phase: needs.needed(phase, size) for phase in PHASES}
    phase = max(by_phase, key=by_phase.__getitem__)
    line = f"the {phase} takes {by_phase[phase] / GB:.2f} GB by arithmetic"
    if not needs.fits(size):
        yield stop(
            f"{line}, {name} has {size / GB:.1f} GB, of which {USABLE:.0%} may be used",
            advice(start.resolved, _ACTIVITIES.get(phase, phase)),
        )
    else:
        yield ok(f"{line}, {name} has {size / GB:.1f} GB")
    host, used = host_bytes(), {p: sum(needs.items[p].values()) for p in ("start", "run")}
    if max(used.values()) > host:
        yield stop(
            f"the CPU of a node holds up to {max(used.values()) / GB:.1f} GB, this one has "
            f"{host / GB:.1f} GB",
            "a machine with more memory, or trainer.strategy without offload",
        )


def disk(start: Start) -> Iterator[Remark]:
    """Say whether checkpoints and rollouts fit where the run is written."""
    checkpoints, rollouts = _checkpoint_bytes(start), _rollout_bytes(start)
    place = Path(start.config.run_dir).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    line = (
        f"up to {_size(checkpoints)} of checkpoints and {_size(rollouts)} of rollouts, "
        f"{_size(free)} are free in {place}"
    )
    if checkpoints + rollouts > free:
        yield stop(
            line,
            "lower checkpoint.keep_last, set rollouts.keep_last or rollouts.compress, or another "
            "--run_dir",
        )
    else:
        yield ok(line)


def duration(start: Start) -> Iterator[Remark]:
    """Say how long a step and the run take, by what the small rollout has measured."""
    config, sampled, rollout = start.config, start.sampled, start.rollout
    seconds, ranks = sampled.clock.seconds, start.trainer.world_size
    per_completion = (seconds["rollout"] + seconds["reward"]) / sampled.num_completions
    in_a_step = config.data.prompts_per_step * config.group_size / ranks
    scale = in_a_step / sampled.num_completions
    sampling = scale * seconds["rollout"]
    update = scale * seconds["update"] * sampled.tokens / sampled.updated_tokens
    # log-probabilities before the update, and those of a reference
    forwards = (start.parts.updates.num_minibatches > 1) + start.parts.objective.needs_reference
    step = scale * (seconds["rollout"] + seconds["reward"]) + update
    step += scale * forwards * seconds["logprobs"]
    times = 2 + config.steps // config.validation.every_n_steps
    each = config.validation.samples_per_problem + config.validation.greedy
    validation = times * each * len(start.val.problems) / ranks * per_completion
    line = (
        f"about {step:.3g} s a step ({sampling:.2g} s of them sampling, {update:.2g} s updates), "
        f"{(config.steps * step + validation) / 3600:.2g} h for {config.steps} steps and their "
        f"validations, scaled from {len(rollout.prompts)} prompts"
    )
    if sampling > config.hang_timeout_s:
        yield stop(
            f"{line}; a rollout above hang_timeout_s={config.hang_timeout_s:g} ends the run",
            f"raise hang_timeout_s above {2 * sampling:.0f}, or sample less in a step",
        )
    else:
        yield ok(line)


def device_memory(start: Start) -> tuple[float, str]:
    """Return the bytes of a device of the run, and what it is."""
    device = start.trainer.strategy.root_device
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return float(properties.total_memory), properties.name
    return float(host_bytes()), "this machine"


def host_bytes() -> int:
    """Return the memory that this machine, or the group of processes that this one is in, has."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUPS:
        with suppress(OSError, ValueError):  # there is none, or it says "max"
            sizes.append(int(Path(path).read_text()))
    return min(sizes)


def _checkpoint_bytes(start: Start) -> int:
    """Return the bytes of all checkpoints that are kept, and of one that is being written."""
    keep, shape = start.config.checkpoint, start.shape
    trained, weights = count(shape.trained), count(shape.weights)
    state = trained if start.parts.policy.lora is not None else weights
    each: int = FLOAT * (state + 2 * trained) + FLOAT * state
    made = 1 + start.config.steps // keep.every_n_steps
    num: int = min(made, keep.keep_last + keep.keep_best) + 1
    return num * each


def _rollout_bytes(start: Start) -> int:
    """Return the bytes of all rollout files that are kept, if no completion ends by itself."""
    config, keep = start.config, start.config.rollouts
    files: int = config.steps // keep.every_n_steps
    files = min(files, keep.keep_last) if keep.keep_last else files
    each: int = BYTES_A_ROW + BYTES_A_TOKEN * start.parts.sampling.max_completion_tokens
    rows: int = config.data.prompts_per_step * config.group_size
    return files * rows * each


def _size(num_bytes: float) -> str:
    """Return a size in the unit that fits."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes / 1e3:.3g} kB"
