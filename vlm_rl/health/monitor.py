"""All detectors over the history of one run: each speaks once."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from vlm_rl.errors import nearest
from vlm_rl.health.detector import Detector
from vlm_rl.health.history import History
from vlm_rl.health.lengths import LengthCollapse, LengthRunaway, TruncationWave
from vlm_rl.health.of_rewards import (
    ConstantTerm,
    FormatWithoutContent,
    GroupsWithoutSignal,
    HeldOutFlat,
)
from vlm_rl.health.stages import SlowStage
from vlm_rl.health.updates import ClipSaturation, EngineDrift, EntropyCollapse, GradientSpikes
from vlm_rl.parts import named

DETECTORS: dict[str, type[Detector]] = {
    "entropy_collapse": EntropyCollapse,
    "length_runaway": LengthRunaway,
    "length_collapse": LengthCollapse,
    "truncation_wave": TruncationWave,
    "groups_without_signal": GroupsWithoutSignal,
    "held_out_flat": HeldOutFlat,
    "format_without_content": FormatWithoutContent,
    "drift": EngineDrift,
    "gradient_spikes": GradientSpikes,
    "clip_saturation": ClipSaturation,
    "slow_stage": SlowStage,
    "constant_term": ConstantTerm,
}
"""The detectors that every run has, by the name that `health.detectors` and docs/health.md use."""

PAGE = "docs/health.md"


class Illness(NamedTuple):
    """What a detector has found: its name, the steps done then, the numbers, and what to do."""

    detector: str
    step: int
    found: str
    advice: str
    link: str

    @property
    def title(self) -> str:
        return self.detector.replace("_", " ")

    @property
    def line(self) -> str:
        """Return all of it in one line."""
        tail = "".join(f"; {part}" for part in (self.advice,) if part)
        link = f" ({self.link})" if self.link else ""
        return f"{self.title} at step {self.step}: {self.found}{tail}{link}"


class Health:
    """Watch the metrics of a run and report each illness once.

    `detectors` changes those of docs/health.md by name: another one in its place, or null to leave
    it out; a new name is one more. `enabled` false leaves out all.
    """

    def __init__(
        self,
        enabled: bool = True,
        detectors: Mapping[str, Detector | None] | None = None,
    ) -> None:
        changes = dict(detectors or {})
        for name, detector in changes.items():
            if detector is None and name not in DETECTORS:
                close = nearest(name, DETECTORS)
                raise ValueError(
                    f"health.detectors: {name!r} is null, but no detector has that name{close}; "
                    f"there are {', '.join(DETECTORS)}"
                )
        everyone = {name: kind() for name, kind in DETECTORS.items()} | changes
        self.detectors = {n: d for n, d in everyone.items() if d is not None} if enabled else {}
        self.history = History()
        self.findings: list[Illness] = []

    def observe(self, step: int, metrics: Mapping[str, float]) -> list[Illness]:
        """Add the metrics of a step or a validation; return what is found now and was not before.

        Raises PartError if a detector of one's own fails.
        """
        self.history.add(metrics)
        known = {finding.detector for finding in self.findings}
        new = []
        for name, detector in self.detectors.items():
            if name in known:
                continue
            with self._border(name, detector):
                found = detector.find(self.history)
            if found is not None:
                new.append(Illness(name, step, found, detector.advice, _link(name, detector)))
        self.findings.extend(new)
        return new

    def _border(self, name: str, detector: Detector) -> AbstractContextManager[None]:
        is_ours = type(detector) in DETECTORS.values()
        return nullcontext() if is_ours else named(detector, f"health.detectors.{name}")

    def observe_all(self, rows: Iterable[Mapping[str, float]]) -> list[Illness]:
        """Add the rows of a metrics.csv; return all findings."""
        for row in rows:
            self.observe(int(row["step"]), row)
        return self.findings

    def state_dict(self) -> dict[str, Any]:
        return {
            "history": self.history.state_dict(),
            "findings": [finding._asdict() for finding in self.findings],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.history.load_state_dict(state["history"])
        self.findings[:] = [Illness(**finding) for finding in state["findings"]]


def _link(name: str, detector: Detector) -> str:
    """Return where the docs explain a detector of ours."""
    return f"{PAGE}#{name.replace('_', '-')}" if type(detector) is DETECTORS.get(name) else ""
