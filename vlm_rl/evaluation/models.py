"""Several evaluations of the same questions in one table, each beside the first one."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlm_rl.evaluation.comparison import Compared, Comparison, TokensUsed, compare
from vlm_rl.evaluation.intervals import Difference, IntervalEstimate, holm
from vlm_rl.evaluation.pareto import ParetoPoint, pareto
from vlm_rl.evaluation.sides import (
    SamplesByUid,
    benchmarks_in,
    by_question,
    known_lengths,
    right_share,
    scored,
    shared_cluster,
)


@dataclass(frozen=True)
class Standing:
    """One model on one benchmark.

    `difference` and `holm_p` are to the first model, None of itself; Holm's correction is over all
    models and benchmarks of the table. `pareto` is None if lengths are not known.
    """

    model: str
    accuracy: IntervalEstimate
    difference: Difference | None
    holm_p: float | None
    length: Difference | None
    spent: TokensUsed | None
    pareto: ParetoPoint | None


@dataclass(frozen=True)
class Standings:
    """All models on one benchmark, in the order in which they were named."""

    benchmark: str
    models: tuple[Standing, ...]


@dataclass(frozen=True)
class ModelsTable:
    """`pairs` are the comparisons of each model with the first one, by name."""

    names: tuple[str, ...]
    benchmarks: tuple[Standings, ...]
    pairs: Mapping[str, Comparison]

    def plain(self) -> dict[str, Any]:
        """Return models.json."""
        benchmarks = [dataclasses.asdict(one) for one in self.benchmarks]
        return {"models": list(self.names), "benchmarks": benchmarks}


def compare_models(folders: Mapping[str, Path], *, common_only: bool = False) -> ModelsTable:
    """Set the samples of evaluation folders, by name, beside those of the first one.

    Raises ValueError as `compare` does, and for benchmarks that not all of them have.
    """
    names = list(folders)
    first = folders[names[0]]
    pairs = {name: compare(first, folders[name], common_only=common_only) for name in names[1:]}
    for name, pair in pairs.items():
        if pair.only_first or pair.only_second:
            lone = ", ".join((*pair.only_first, *pair.only_second))
            raise ValueError(f"{first} and {folders[name]}: only one of them has {lone}")
    paths = {name: benchmarks_in(folder) for name, folder in folders.items()}
    adjusted = _adjusted(pairs)
    benchmarks = [
        Standings(
            benchmark,
            tuple(_standings(benchmark, names, pairs, adjusted, _points(benchmark, paths))),
        )
        for benchmark in paths[names[0]]
    ]
    return ModelsTable(tuple(names), tuple(benchmarks), pairs)


def _adjusted(pairs: Mapping[str, Comparison]) -> dict[tuple[str, str], float]:
    """Return p after Holm's correction, by model and benchmark."""
    raw = {
        (name, one.benchmark): one.accuracy.p_value or 0.0
        for name, pair in pairs.items()
        for one in pair.benchmarks
    }
    return dict(zip(raw, holm(list(raw.values())), strict=True))


def _standings(
    benchmark: str,
    names: Sequence[str],
    pairs: Mapping[str, Comparison],
    adjusted: Mapping[tuple[str, str], float],
    points: Mapping[str, ParetoPoint],
) -> list[Standing]:
    found = {name: _of(benchmark, pair) for name, pair in pairs.items()}
    base = next(iter(found.values()))
    first = Standing(names[0], base.first, None, None, None, base.first_spent, points.get(names[0]))
    others = [
        Standing(
            name,
            one.second,
            one.accuracy,
            adjusted[name, benchmark],
            one.length,
            one.second_spent,
            points.get(name),
        )
        for name, one in found.items()
    ]
    return [first, *others]


def _of(benchmark: str, pair: Comparison) -> Compared:
    return next(one for one in pair.benchmarks if one.benchmark == benchmark)


def _points(benchmark: str, paths: Mapping[str, Mapping[str, Path]]) -> dict[str, ParetoPoint]:
    """Return the points of all models over the questions of which all lengths are known."""
    sides = {name: by_question(of_model[benchmark]) for name, of_model in paths.items()}
    first = next(iter(sides.values()))
    usable = [uid for uid in first if all(_is_usable(uid, side) for side in sides.values())]
    if not usable:
        return {}
    clusters = [shared_cluster(uid, first, first) for uid in usable]
    accuracy = {name: [right_share(side[uid]) for uid in usable] for name, side in sides.items()}
    tokens = {
        name: [float(np.mean(known_lengths(side[uid]))) for uid in usable]
        for name, side in sides.items()
    }
    return {point.name: point for point in pareto(accuracy, tokens, clusters)}


def _is_usable(uid: str, side: SamplesByUid) -> bool:
    samples = side.get(uid, ())
    return bool(scored(samples)) and bool(known_lengths(samples))
