"""Measures of a whole benchmark whose problems may each have several answers."""

from collections.abc import Callable, Mapping, Sequence

from vlm_rl.evaluation.benchmarks.benchmark import Judged
from vlm_rl.records import Problem

ScoredProblem = tuple[Problem, bool]
"""A problem, and whether one answer to it is right."""


def over_samples(
    judged: Sequence[Judged], measure: Callable[[Sequence[ScoredProblem]], Mapping[str, float]]
) -> dict[str, float]:
    """Average `measure` of all first answers, of all second ones and so on.

    By our verdict and, if every answer has one, by the benchmark's own ruling, under names that
    start with `official/`. Answers whose check failed are left out of the first kind.
    """
    ours = [(each, each.correct) for each in judged if each.verdict.scored]
    official = [(each, each.official.correct) for each in judged if each.official is not None]
    measures = _mean(ours, measure)
    if official and len(official) == len(judged):
        measures |= {f"official/{name}": value for name, value in _mean(official, measure).items()}
    return measures


def _mean(
    answers: Sequence[tuple[Judged, bool]],
    measure: Callable[[Sequence[ScoredProblem]], Mapping[str, float]],
) -> dict[str, float]:
    runs: dict[int, list[ScoredProblem]] = {}
    for judged, correct in answers:
        runs.setdefault(judged.response.sample, []).append((judged.problem, correct))
    values: dict[str, list[float]] = {}
    for run in runs.values():
        for name, value in measure(run).items():
            values.setdefault(name, []).append(value)
    return {name: sum(each) / len(each) for name, each in values.items()}
