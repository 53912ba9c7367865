"""Two evaluations of the same questions side by side: is the difference more than noise?

Both sides answer the same questions, so the difference is taken question by question. An accuracy
is uncertain mostly because of which questions were asked, and that cancels.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlm_rl.disk.files import write_text
from vlm_rl.evaluation.intervals import (
    Difference,
    IntervalEstimate,
    RatioEstimate,
    clustered,
    difference,
    holm,
    paired,
    ratio,
)
from vlm_rl.evaluation.markdown import interval, p_text, per_right, percent
from vlm_rl.evaluation.sides import (
    SamplesByUid,
    benchmarks_in,
    by_question,
    check_same,
    known_lengths,
    right_share,
    scored,
    shared_cluster,
)
from vlm_rl.evaluation.spending import SPENDING, Spending, Spent, plot_spending
from vlm_rl.show.json_text import json_text
from vlm_rl.show.markdown import Markdown, image, table
from vlm_rl.show.screen import Screen, Table

COMPARISON = "comparison.md"
RESULTS = "comparison.json"

HOW = (
    "Second minus first, in percentage points and tokens, with the 95 % interval in brackets, over "
    "the same questions; questions that are versions of one another count as one draw. p is "
    "two-sided; *Holm* is p after Holm's correction for comparing on several benchmarks. McNemar's "
    "exact test takes questions as independent and needs one sample per question."
)


@dataclass(frozen=True)
class TokensUsed:
    """The mean length of a response, and the tokens spent per right answer, None without one."""

    mean: float
    per_correct: RatioEstimate | None


@dataclass(frozen=True)
class Compared:
    """Both sides on one benchmark. `holm_p` is the p-value adjusted over all benchmarks compared.

    `length`, and what each side spent, are of the questions whose lengths both sides know; None if
    there is none. `only_first` and `only_second` count the questions left out because only one side
    answered them. `without_verdict` counts those whose samples all failed to be checked on one
    side.
    """

    benchmark: str
    first: IntervalEstimate
    second: IntervalEstimate
    accuracy: Difference
    holm_p: float
    length: Difference | None
    first_spent: TokensUsed | None
    second_spent: TokensUsed | None
    only_first: int
    only_second: int
    without_verdict: int

    @property
    def sentence(self) -> str:
        """Say in words whether one side is better."""
        points, p_value = 100 * self.accuracy.mean, p_text(self.holm_p)
        start = f"{self.benchmark}: second {points:+.1f} points {_points(self.accuracy)}"
        if self.accuracy.within_noise:
            return f"{start}: the difference is within noise."
        if self.holm_p >= 0.05:
            return (
                f"{start}: more than noise on its own, but not after correcting for the number of "
                f"benchmarks (Holm p = {p_value})."
            )
        side = "second" if points > 0 else "first"
        return f"{start}: the {side} is better (Holm p = {p_value})."


@dataclass(frozen=True)
class Comparison:
    """`only_first` and `only_second` name benchmarks that only one folder has."""

    names: tuple[str, str]
    benchmarks: tuple[Compared, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """Return comparison.json: every field, and the sentence of each benchmark."""
        benchmarks = [
            {**dataclasses.asdict(one), "sentence": one.sentence} for one in self.benchmarks
        ]
        return {**dataclasses.asdict(self), "benchmarks": benchmarks}


def compare(first: Path, second: Path, *, common_only: bool = False) -> Comparison:
    """Compare the samples of two evaluation folders.

    Raises ValueError if they share no benchmark, or if the questions of a shared benchmark differ
    and `common_only` does not ask for those that both sides answered.
    """
    sides = (benchmarks_in(first), benchmarks_in(second))
    shared = [name for name in sides[0] if name in sides[1]]
    if not shared:
        raise ValueError(
            f"{first} has {', '.join(sides[0])} and {second} has {', '.join(sides[1])}: "
            "there is no benchmark in common; name two folders that share one"
        )
    compared = [
        _compare_benchmark(name, sides[0][name], sides[1][name], common_only) for name in shared
    ]
    adjusted = holm([one.holm_p for one in compared])
    return Comparison(
        (str(first), str(second)),
        tuple(
            dataclasses.replace(one, holm_p=p) for one, p in zip(compared, adjusted, strict=True)
        ),
        tuple(name for name in sides[0] if name not in shared),
        tuple(name for name in sides[1] if name not in shared),
    )


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write comparison.md, its plot if lengths are known, and comparison.json into `folder`."""
    drawn = plot_spending(_places(comparison), folder / SPENDING)
    write_text(
        folder / COMPARISON, comparison_markdown(comparison, plot=SPENDING if drawn else None)
    )
    write_text(folder / RESULTS, json_text(comparison.plain(), indent=1) + "\n")


def _places(comparison: Comparison) -> list[Spending]:
    """Return where each benchmark whose lengths both sides know was, and where it is."""
    return [
        Spending(
            one.benchmark,
            Spent(one.first, one.first_spent.mean),
            Spent(one.second, one.second_spent.mean),
        )
        for one in comparison.benchmarks
        if one.first_spent and one.second_spent
    ]


def comparison_markdown(comparison: Comparison, *, plot: str | None = None) -> Markdown:
    sentences = [Markdown("* {}").format(sentence) for sentence in _sentences(comparison)]
    parts = (
        Markdown("# Comparison"),
        Markdown("First: {}. Second: {}.").format(*comparison.names),
        Markdown("\n").join(sentences),
        Markdown(HOW),
        table(HEADINGS, [_row(one) for one in comparison.benchmarks]),
        *([image(plot)] if plot else []),
    )
    return Markdown("\n\n").join(parts) + Markdown("\n")


def print_comparison(comparison: Comparison) -> None:
    """Print the columns that fit into 80 characters, and the sentences."""
    screen = Screen()
    shown = Table(title="second minus first, in percent and tokens")
    for heading in SCREEN:
        shown.add_column(heading, justify="right" if heading != SCREEN[0] else "left")
    for one in comparison.benchmarks:
        row = dict(zip(HEADINGS, _row(one), strict=True))
        row |= {"first": percent(one.first.mean), "second": percent(one.second.mean)}
        row["tokens"] = "-" if one.length is None else f"{one.length.mean:+,.0f}"
        shown.add_row(*(row[heading] for heading in SCREEN))
    for side, name in zip(("first", "second"), comparison.names, strict=True):
        screen.put(f"{side}: {name}")
    screen.print(shown)
    for sentence in _sentences(comparison):
        screen.put(sentence)


HEADINGS = (
    "benchmark",
    "questions",
    "first",
    "second",
    "difference",
    "p",
    "Holm",
    "McNemar",
    "tokens",
    "tokens each",
    "tokens per right answer",
)
SCREEN = ("benchmark", "first", "second", "difference", "p", "Holm", "tokens")


def _row(one: Compared) -> tuple[str, ...]:
    return (
        one.benchmark,
        str(one.accuracy.num_questions),
        interval(one.first),
        interval(one.second),
        f"{100 * one.accuracy.mean:+.1f} {_points(one.accuracy)}",
        p_text(one.accuracy.p_value),
        p_text(one.holm_p),
        p_text(one.accuracy.mcnemar_p),
        _tokens(one.length),
        _both(one, lambda spent: f"{spent.mean:,.0f}"),
        _both(one, lambda spent: per_right(spent.per_correct)),
    )


def _both(one: Compared, what: Callable[[TokensUsed], str]) -> str:
    if one.first_spent is None or one.second_spent is None:
        return "-"
    return f"{what(one.first_spent)}, then {what(one.second_spent)}"


def _points(accuracy: Difference) -> str:
    assert accuracy.low is not None
    assert accuracy.high is not None
    return f"[{100 * accuracy.low:+.1f}, {100 * accuracy.high:+.1f}]"


def _tokens(length: Difference | None) -> str:
    if length is None:
        return "-"
    if length.low is None or length.high is None:
        return f"{length.mean:+,.0f}"
    return f"{length.mean:+,.0f} [{length.low:+,.0f}, {length.high:+,.0f}]"


def _sentences(comparison: Comparison) -> list[str]:
    sentences = [one.sentence for one in comparison.benchmarks]
    for one in comparison.benchmarks:
        if one.only_first or one.only_second:
            sentences.append(
                f"{one.benchmark}: {one.only_first} questions of the first side only and "
                f"{one.only_second} of the second only are left out."
            )
        if one.without_verdict:
            sentences.append(
                f"{one.benchmark}: {one.without_verdict} questions are left out because checking "
                "failed on every sample of a side."
            )
    unknown = [one.benchmark for one in comparison.benchmarks if one.length is None]
    if unknown:
        sentences.append(
            f"The lengths in tokens of {', '.join(unknown)} are not known on both sides."
        )
    for side, names in (("first", comparison.only_first), ("second", comparison.only_second)):
        if names:
            sentences.append(f"Only the {side} has {', '.join(names)}: not compared.")
    return sentences


def _compare_benchmark(name: str, first: Path, second: Path, common_only: bool) -> Compared:
    """Compare one benchmark, with the p-value not yet adjusted."""
    a, b = by_question(first), by_question(second)
    shared = [uid for uid in a if uid in b]
    alone = (len(a) - len(shared), len(b) - len(shared))
    if any(alone) and not common_only:
        raise ValueError(
            f"{name}: {alone[0]} questions are in {first} only and {alone[1]} in {second} only, "
            f"{len(shared)} in both; compare the {len(shared)} with common_only"
        )
    check_same(name, a, b, shared)
    judged = [uid for uid in shared if scored(a[uid]) and scored(b[uid])]
    if not judged:
        raise ValueError(f"{name}: no question has a verdict in both {first} and {second}")
    clusters = [shared_cluster(uid, a, b) for uid in judged]
    values = [[right_share(side[uid]) for uid in judged] for side in (a, b)]
    accuracy = paired(values[0], values[1], clusters)
    assert accuracy.p_value is not None, "differences of fractions are bounded"
    return Compared(
        name,
        clustered(values[0], clusters),
        clustered(values[1], clusters),
        accuracy,
        accuracy.p_value,
        _length_difference(a, b, shared),
        _spent(a, a, b, shared),
        _spent(b, a, b, shared),
        *alone,
        without_verdict=len(shared) - len(judged),
    )


def _length_difference(
    a: SamplesByUid, b: SamplesByUid, shared: Sequence[str]
) -> Difference | None:
    """Compare the mean length of each question whose lengths both sides know."""
    known = [uid for uid in shared if known_lengths(a[uid]) and known_lengths(b[uid])]
    if not known:
        return None
    deltas = [
        float(np.mean(known_lengths(b[uid])) - np.mean(known_lengths(a[uid]))) for uid in known
    ]
    return difference(deltas, [shared_cluster(uid, a, b) for uid in known])


def _spent(
    side: SamplesByUid, a: SamplesByUid, b: SamplesByUid, shared: Sequence[str]
) -> TokensUsed | None:
    """Return what `side` spent on the questions whose lengths both sides know."""
    uids = [uid for uid in shared if known_lengths(a[uid]) and known_lengths(b[uid])]
    if not uids:
        return None
    known = [
        (float(sample.length_tokens), float(sample.correct), shared_cluster(uid, a, b))
        for uid in uids
        for sample in scored(side[uid])
        if sample.length_tokens is not None
    ]
    mean = float(np.mean([np.mean(known_lengths(side[uid])) for uid in uids]))
    if not any(correct for _, correct, _ in known):
        return TokensUsed(mean, None)
    return TokensUsed(mean, ratio(*zip(*known, strict=True)))
