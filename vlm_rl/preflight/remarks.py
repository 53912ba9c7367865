"""What an inspection says: a level, its name, a sentence, and what to do."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from vlm_rl.errors import joined
from vlm_rl.preflight.start import REFUSALS, STAGES, NotThere, Start

Level = Literal["stop", "warning", "ok"]
LEVELS: tuple[Level, ...] = ("stop", "warning", "ok")
"""A run would end, or teach nothing; it would go on with something wrong; nothing was found."""


@dataclass(frozen=True)
class Remark:
    """One line. `name` is that of the inspection; `todo` is empty at level ok."""

    level: Level
    sentence: str
    todo: str = ""
    name: str = ""


def ok(sentence: str) -> Remark:
    return Remark("ok", sentence)


def warning(sentence: str, todo: str) -> Remark:
    return Remark("warning", sentence, todo)


def stop(sentence: str, todo: str) -> Remark:
    return Remark("stop", sentence, todo)


def told(refusal: str) -> Remark:
    """Make a stop of a line with which something refuses to start: what is wrong; the way out."""
    sentence, semicolon, todo = refusal.rpartition("; ")
    return stop(sentence, todo) if semicolon else stop(refusal, "mend what this line names")


@dataclass(frozen=True)
class Inspection:
    """A function that looks at one thing of a start and says what it finds.

    `fit` does the `cheap` ones at every start: they load and sample nothing.
    """

    name: str
    look: Callable[[Start], Iterable[Remark]]
    cheap: bool = True


@dataclass(frozen=True)
class Inspected:
    """The `remarks` of all inspections; `left_out` maps the names of those that could not look to
    what they lack."""

    remarks: Sequence[Remark]
    left_out: dict[str, str] = field(default_factory=dict)

    def at(self, level: Level) -> list[Remark]:
        """Return the remarks of one level, in the order of the inspections."""
        return [remark for remark in self.remarks if remark.level == level]

    @property
    def lacking(self) -> dict[str, list[str]]:
        """Return the names of inspections that could not look, by what they lack."""
        by_stage: dict[str, list[str]] = {}
        for name, stage in self.left_out.items():
            by_stage.setdefault(STAGES.get(stage, stage), []).append(name)
        return by_stage


def inspect(start: Start, inspections: Iterable[Inspection]) -> Inspected:
    """Let all inspections look, also after one has found a fault.

    A stage that fails is a remark of its own, once, and is what later inspections lack. What fails
    in an inspection itself, such as a file that it reads, is a stop of that name.
    """
    remarks: list[Remark] = []
    left_out: dict[str, str] = {}
    for inspection in inspections:
        try:
            remarks += _named(inspection, inspection.look(start))
        except NotThere as missing:
            left_out[inspection.name] = missing.stage
        except REFUSALS as error:
            line = joined(str(error)) or type(error).__name__
            remarks.append(replace(told(line), name=inspection.name))
    failed = [
        replace(told(line), name=STAGES[stage])
        for stage, lines in start.failed.items()
        for line in lines
    ]
    return Inspected([*failed, *remarks], left_out)


def _named(inspection: Inspection, remarks: Iterable[Remark]) -> Iterator[Remark]:
    for remark in remarks:
        yield replace(remark, name=inspection.name)


def lines(inspected: Inspected) -> Iterator[str]:
    """Yield a line for each remark, stops first, and one that counts them."""
    remarks = [remark for level in LEVELS for remark in inspected.at(level)]
    width = max((len(remark.name) for remark in remarks), default=0)
    for remark in remarks:
        yield f"{remark.level:<7} {remark.name:<{width}} {line_of(remark)}"
    for stage, names in inspected.lacking.items():
        yield f"not looked at without {stage}: {', '.join(names)}"
    counts = [f"{len(inspected.at(level))} {level}" for level in LEVELS]
    yield f"{', '.join(counts)}; {len(inspected.left_out)} not looked at"


def line_of(remark: Remark) -> str:
    """Return what a remark says and what to do."""
    return f"{remark.sentence}; {remark.todo}" if remark.todo else remark.sentence
