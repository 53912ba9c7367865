"""Figures of a benchmark as a whole, where every problem may have been answered several times."""

from collections.abc import Callable, Mapping, Sequence

from vlm_rl.evaluation.benchmarks.benchmark import Judged
from vlm_rl.records import Problem

Outcome = tuple[Problem, bool]
"""A problem and whether one answer to it is right."""


def over_samples(
    judged: Sequence[Judged], measure: Callable[[Sequence[Outcome]], Mapping[str, float]]
) -> dict[str, float]:
    """`measure` of all first answers, of all second ones and so on, averaged.

    By our verdict and, under names that start with `official/`, by the benchmark's own ruling where
    every answer has one. Answers whose check failed are left out of the first kind.
    """
    ours = [(each, each.correct) for each in judged if each.verdict.scored]
    official = [(each, each.official.correct) for each in judged if each.official is not None]
    figures = _mean(ours, measure)
    if official and len(official) == len(judged):
        figures |= {f"official/{name}": value for name, value in _mean(official, measure).items()}
    return figures


def _mean(
    answers: Sequence[tuple[Judged, bool]],
    measure: Callable[[Sequence[Outcome]], Mapping[str, float]],
) -> dict[str, float]:
    runs: dict[int, list[Outcome]] = {}
    for judged, correct in answers:
        runs.setdefault(judged.response.sample, []).append((judged.problem, correct))
    values: dict[str, list[float]] = {}
    for run in runs.values():
        for name, value in measure(run).items():
            values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}
