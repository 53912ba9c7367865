"""The stages of a start, as inspections read them: what `fit` has built, or preflight builds.

`fit` gives all that it has. Preflight builds a stage when an inspection first asks for it. A stage
that fails is remembered with its line, so that what does not need it is still looked at.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import lightning as L
from jsonargparse import Namespace

from vlm_rl.data.image_files import Size
from vlm_rl.data.images import ImageStore
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.data.rows import Skipped
from vlm_rl.errors import joined
from vlm_rl.memory.estimate import MemoryEstimate, estimate
from vlm_rl.memory.model_shape import ModelShape
from vlm_rl.preflight.small_rollout import SmallRollout
from vlm_rl.records import Problem, Rollout
from vlm_rl.run.memory_setup import setup_of

Made = TypeVar("Made")

Builders = Mapping[str, Callable[["Start"], Any]]

STAGES = {
    "config": "configuration",
    "resolved": "configuration",
    "parts": "classes",
    "trainer": "devices",
    "checkpoint": "checkpoint",
    "encoder": "tokenizer and template",
    "train": "training data",
    "val": "validation data",
    "shape": "shape of the model",
    "memory": "memory",
    "sampled": "small rollout",
    "rollout": "reward",
}
"""The stages and their names in remarks."""


REFUSALS = (ValueError, RuntimeError, OSError, MemoryError)
"""What stops a start with a line: wrong settings and data, parts that fail, files, memory."""


class NotThere(Exception):
    """A stage has failed, or is not part of this start; `stage` is its name."""

    def __init__(self, stage: str) -> None:
        super().__init__(stage)
        self.stage = stage


class Refusals(ValueError):
    """Several lines, each of which would stop the run."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


@dataclass(frozen=True)
class Problems:
    """What was read of the training or of the validation data.

    `problems` are those that a run uses, of `sources` the first named; `skipped` are rows that are
    left out, which stop the run if `stops`. `said` is what reading prints.
    """

    problems: Sequence[Problem]
    skipped: Sequence[Skipped]
    images: ImageStore
    stops: bool
    said: str = ""

    @cached_property
    def keys(self) -> dict[str, tuple[str, ...]]:
        """By uid what is asked: the question without white space, options, digests of images."""
        return {problem.uid: self._key(problem) for problem in self.problems}

    @property
    def used(self) -> dict[bytes | Path, Size]:
        """The size of each image that a problem has, once."""
        images = dict.fromkeys(image for one in self.problems for image in one.images)
        return {image: self.images.size_of(image) for image in images}

    def _key(self, problem: Problem) -> tuple[str, ...]:
        digests = [self.images.digest_of(image) for image in problem.images]
        return ("".join(problem.question.split()), *(problem.choices or ()), *digests)


class Stage(Generic[Made]):
    """An attribute of a start that is made when it is first read."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, start: "Start", owner: type) -> Made:
        value: Made = start.make(self._name)
        return value


class Start:
    """All that is known of a start, by stage. A stage is in `given`, or one of `builders` makes it.

    `failed` has the lines of each stage that could not be made. `thorough` inspections look at all
    of the data, others at some where all would take long.
    """

    def __init__(
        self, given: Mapping[str, Any], builders: Builders | None = None, *, thorough: bool = False
    ) -> None:
        self.thorough = thorough
        self._known = dict(given)
        self._builders = builders or {}
        self.failed: dict[str, list[str]] = {}

    config = Stage[Namespace]()
    """The parsed configuration."""
    resolved = Stage[Mapping[str, Any]]()
    """The same as plain values."""
    parts = Stage[Namespace]()
    """The classes that the configuration names, constructed."""
    trainer = Stage[L.Trainer]()
    checkpoint = Stage[Any]()
    """The transformers configuration of the policy."""
    encoder = Stage[PromptEncoder]()
    train = Stage[Problems]()
    val = Stage[Problems]()
    shape = Stage[ModelShape]()
    """The shapes of the policy, without weights."""
    memory = Stage[MemoryEstimate]()
    sampled = Stage[SmallRollout]()
    """Completions of the real policy, not judged."""
    rollout = Stage[Rollout]()
    """The same, judged."""

    def has(self, name: str) -> bool:
        """Whether a stage has been made; nothing is made for the question."""
        return name in self._known

    def close(self) -> None:
        """End what engine and reward keep."""
        if self.has("parts"):
            self.parts.reward.close()
            self.parts.engine.close()

    def make(self, name: str) -> Any:
        """Return a stage, made at the first call. Raises NotThere."""
        if name in self._known:
            return self._known[name]
        if name in self.failed or name not in self._builders:
            raise NotThere(name)
        try:
            self._known[name] = self._builders[name](self)
        except REFUSALS as error:
            lines = error.lines if isinstance(error, Refusals) else [str(error)]
            self.failed[name] = [joined(line) or type(error).__name__ for line in lines]
            raise NotThere(name) from error
        return self._known[name]


def _shape(start: Start) -> ModelShape:
    freeze, lora = start.config.policy.freeze, start.parts.policy.lora
    return ModelShape(start.checkpoint, freeze=freeze, lora=lora)


def _memory(start: Start) -> MemoryEstimate:
    """Estimate it with the number of devices that the trainer has found."""
    config: Namespace = start.config.clone()
    config.trainer.devices = start.trainer.num_devices
    config.trainer.num_nodes = start.trainer.num_nodes
    return estimate(start.shape, setup_of(config, start.parts))


SHAPES: Builders = {"shape": _shape, "memory": _memory}
"""What follows from the others by arithmetic."""
