"""The stages of a start, made one by one as `fit` makes them, for preflight."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from jsonargparse import ArgumentParser

from vlm_rl.config import instantiate, parse, plain
from vlm_rl.data.datamodule import ProblemData
from vlm_rl.data.images import ImageStore
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import check_checkpoint
from vlm_rl.preflight.machine import device_memory
from vlm_rl.preflight.sections import refused_sections
from vlm_rl.preflight.small_rollout import SmallRollout, prompts_of, sample
from vlm_rl.preflight.start import SHAPES, NotThere, Problems, Refusals, Start
from vlm_rl.run.trainer import ELSEWHERE, build_trainer

OWN = ("problems", "page")
"""Keys of preflight alone."""


def start_of(parser: ArgumentParser, argv: Sequence[str]) -> Start:
    """Return a start in which nothing is made yet."""
    builders = {
        **SHAPES,
        "config": lambda start: _config(parser, argv),
        "resolved": lambda start: _resolved(parser, start),
        "parts": lambda start: _parts(parser, argv, start),
        "trainer": lambda start: build_trainer(start.config),
        "checkpoint": lambda start: check_checkpoint(start.config.policy.path),
        "encoder": lambda start: PromptEncoder(
            start.config.policy.path, **vars(start.parts.prompt)
        ),
        "train": _train,
        "val": _val,
        "sampled": _sampled,
        "rollout": lambda start: start.sampled.judged(),
    }
    return Start({}, builders, thorough=True)


def _config(parser: ArgumentParser, argv: Sequence[str]) -> Any:
    try:
        return parse(parser, argv, ELSEWHERE)
    except ValueError as error:
        raise _each(parser, argv, error) from error


def _resolved(parser: ArgumentParser, start: Start) -> dict[str, Any]:
    """Return what fit would save of the configuration."""
    return {key: v for key, v in plain(parser, start.config).items() if key not in OWN}


def _parts(parser: ArgumentParser, argv: Sequence[str], start: Start) -> Any:
    try:
        return instantiate(parser, start.config)
    except ValueError as error:
        raise _each(parser, argv, error) from error


def _each(parser: ArgumentParser, argv: Sequence[str], first: ValueError) -> Refusals:
    """Return what is wrong with every section, at least the first refusal."""

    def build(own: Sequence[str]) -> None:
        instantiate(parser, parse(parser, own, ELSEWHERE))

    return Refusals(refused_sections(argv, build) or [str(first)])


def _train(start: Start) -> Problems:
    config = start.parts.data
    data, said = _read(start, config.train)
    try:
        data.prompts_per_step = config.prompts_per_step
        data.mixture_of(data.mixture.sizes)
    except ValueError as error:
        start.failed.setdefault("train", []).append(str(error))
    return Problems(data.train_set, data.skipped, data.images, config.on_bad_row == "stop", said)


def _val(start: Start) -> Problems:
    config = start.parts.data
    stops = config.on_bad_row == "stop"
    if not config.val:
        return Problems([], [], ImageStore(), stops)
    data, said = _read(start, config.val)
    problems = data.train_set
    wanted = min(config.val_problems or len(problems), len(problems))
    chosen = [problems[i * len(problems) // wanted] for i in range(wanted)]
    return Problems(chosen, data.skipped, data.images, stops, said)


def _read(start: Start, sources: Sequence[Any]) -> tuple[ProblemData, str]:
    """Read sources alone, with the bad rows left out, and return what that prints.

    Training and validation are read apart: a fault of one does not hide those of the other.
    """
    changes = {"train": sources, "val": [], "on_bad_row": "skip", "prompts_per_step": 1}
    data = ProblemData(
        **vars(start.parts.data) | changes, encoder=start.encoder, seed=start.config.seed
    )
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            data.setup("fit")
    except ValueError as error:
        first = {row.reason: row.message for row in reversed(data.skipped)}
        raise Refusals([*first.values(), str(error)]) from error
    return data, printed.getvalue()


def _sampled(start: Start) -> SmallRollout:
    config, size = start.config, device_memory(start)[0]
    if not start.memory.fits(size):
        raise NotThere("memory")
    prompts = prompts_of(start.encoder, start.train.problems, config.problems)
    if not prompts:
        raise NotThere("problems")
    return sample(
        config,
        start.parts,
        start.encoder,
        prompts,
        device=start.trainer.strategy.root_device,
        context=start.trainer.precision_plugin.forward_context,
    )
