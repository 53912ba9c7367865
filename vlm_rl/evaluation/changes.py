"""Which questions turned from right to wrong between two evaluations, and which the other way.

A question is right if more than half of its samples that could be checked are. Those of which one
side has no such sample are left out.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlm_rl.evaluation.report import Sample
from vlm_rl.evaluation.sides import (
    SamplesByUid,
    benchmarks_in,
    by_question,
    known_lengths,
    right_share,
    scored,
)

RIGHT, WRONG = "right", "wrong"


@dataclass(frozen=True)
class QuestionChange:
    """The shares of right samples of one question, before and after, and the mean tokens, None if
    unknown."""

    uid: str
    before: float
    after: float
    tokens_before: float | None
    tokens_after: float | None

    @property
    def kind(self) -> tuple[str, str]:
        return _side(self.before), _side(self.after)


@dataclass(frozen=True)
class CategoryChange:
    """How many questions of one value of a category there are, and how many turned."""

    category: str
    value: str
    num_questions: int
    lost: int
    gained: int


@dataclass(frozen=True)
class BenchmarkChanges:
    """The changes of one benchmark.

    `counts` go by before and after. `lost` turned from right to wrong and `gained` the other way,
    those that moved most first. `how_lost` counts what the wrong samples of the lost questions are
    now, `how_wrong` what those of the gained ones were before.
    """

    benchmark: str
    counts: Mapping[tuple[str, str], int]
    moved: Mapping[str, int]
    lost: tuple[QuestionChange, ...]
    gained: tuple[QuestionChange, ...]
    how_lost: Mapping[str, int]
    how_wrong: Mapping[str, int]
    categories: tuple[CategoryChange, ...]

    def plain(self) -> dict[str, Any]:
        """Return the benchmark's part of changes.json."""
        counts = {f"{before} -> {after}": n for (before, after), n in self.counts.items()}
        return {**asdict(self), "counts": counts}


def changes_between(first: Path, second: Path) -> list[BenchmarkChanges]:
    """Return the changes of every benchmark that both folders have, over the questions of both."""
    sides = benchmarks_in(first), benchmarks_in(second)
    return [
        _changes(name, by_question(path), by_question(sides[1][name]))
        for name, path in sides[0].items()
        if name in sides[1]
    ]


def _changes(name: str, before: SamplesByUid, after: SamplesByUid) -> BenchmarkChanges:
    uids = [uid for uid in before if uid in after and scored(before[uid]) and scored(after[uid])]
    changes = [_change(uid, before[uid], after[uid]) for uid in uids]
    lost = [one for one in changes if one.kind == (RIGHT, WRONG)]
    gained = [one for one in changes if one.kind == (WRONG, RIGHT)]
    kinds = [(a, b) for a in (RIGHT, WRONG) for b in (RIGHT, WRONG)]
    counts = Counter(one.kind for one in changes)
    return BenchmarkChanges(
        benchmark=name,
        counts={kind: counts[kind] for kind in kinds},
        moved={
            "more often right": sum(one.after > one.before for one in changes),
            "less often right": sum(one.after < one.before for one in changes),
        },
        lost=tuple(sorted(lost, key=lambda one: (one.after - one.before, one.uid))),
        gained=tuple(sorted(gained, key=lambda one: (one.before - one.after, one.uid))),
        how_lost=_how([one.uid for one in lost], after),
        how_wrong=_how([one.uid for one in gained], before),
        categories=tuple(_categories(changes, before)),
    )


def _change(uid: str, before: Sequence[Sample], after: Sequence[Sample]) -> QuestionChange:
    return QuestionChange(
        uid, right_share(before), right_share(after), _mean_tokens(before), _mean_tokens(after)
    )


def _mean_tokens(samples: Sequence[Sample]) -> float | None:
    lengths = known_lengths(samples)
    return sum(lengths) / len(lengths) if lengths else None


def _side(share: float) -> str:
    return RIGHT if share > 0.5 else WRONG


def _how(uids: Sequence[str], side: SamplesByUid) -> dict[str, int]:
    """Count the wrong samples of questions by how they are wrong, the commonest first."""
    wrong = [sample for uid in uids for sample in scored(side[uid]) if not sample.correct]
    return dict(Counter(_reason(sample) for sample in wrong).most_common())


def _reason(sample: Sample) -> str:
    cut = ", cut off at the budget" if sample.truncated else ""
    return f"{sample.verdict.value}{cut}"


def _categories(changes: Sequence[QuestionChange], side: SamplesByUid) -> list[CategoryChange]:
    """Return the values of each category, those with most lost questions first."""
    found: dict[tuple[str, str], list[QuestionChange]] = {}
    for one in changes:
        for category, value in side[one.uid][0].categories.items():
            found.setdefault((category, value), []).append(one)
    rows = [
        CategoryChange(
            category,
            value,
            len(these),
            lost=sum(one.kind == (RIGHT, WRONG) for one in these),
            gained=sum(one.kind == (WRONG, RIGHT) for one in these),
        )
        for (category, value), these in found.items()
    ]
    return sorted(rows, key=lambda row: (row.category, row.gained - row.lost, row.value))
