"""The page of lengths of an evaluation: lengths.md, lengths.json, and a plot and lines of each
benchmark."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from vlm_rl.disk.files import write_text
from vlm_rl.evaluation.length_plots import plot_lengths
from vlm_rl.evaluation.lengths import LengthMeasures, LengthParts, ProblemLengths, TargetMatch
from vlm_rl.evaluation.markdown import interval, percent
from vlm_rl.metrics.repetition import LOOP_NGRAM, MAX_REPEATED
from vlm_rl.show.json_text import json_text
from vlm_rl.show.markdown import Markdown, image, table

LENGTHS = "lengths.md"
MEASURES = "lengths.json"
PROBLEMS = "lengths.jsonl"
PLOT = "lengths.png"
_SHOWN = 10

HOW = (
    "Lengths are tokens unless another unit is named. Of each problem: mean, deviation of a sample "
    "and percentiles of its responses, as CASTILLO has them (arXiv:2505.16881). A response loops "
    f"if more than {MAX_REPEATED:.0%} of its {LOOP_NGRAM}-grams of words and signs stand in it "
    "before; that rule is ours. Thinking is what stands before the first `</think>`, or what never "
    "ends."
)
BY_SHARE = (
    "A problem is easy if at least 2/3 of its responses are right, medium from 1/3 on, else hard; "
    "these are the levels of LASER-D (arXiv:2505.15612)."
)
BY_ROW = "Difficulty is what the column `difficulty` or `level` of the rows says."
VERBOSE = (
    "YapScore (arXiv:2601.00624): characters of the answer, without its thinking, beyond those of "
    "the row's `baseline`. The YapIndex is the mean of the medians of the categories."
)
TARGETED = (
    "Ruler's precise and flexible match (arXiv:2409.18943): the share of responses whose number of "
    "words is in the published band around what was asked for, with the 95 % interval. Words are "
    "counted as its authors do, in the whole response and, if it thinks, after the thinking."
)


def write_lengths(measured: Sequence[LengthMeasures], folder: Path) -> None:
    """Write the page and, in the folder of each benchmark, its plot and a line for each problem."""
    for one in measured:
        own = folder / one.benchmark
        lines = "".join(json_text(asdict(problem)) + "\n" for problem in one.problems)
        write_text(own / PROBLEMS, lines)
        plot_lengths(one, own / PLOT)
    write_text(folder / LENGTHS, lengths_markdown(measured))
    plain = {"benchmarks": [one.plain() for one in measured]}
    write_text(folder / MEASURES, json_text(plain, indent=1) + "\n")


def lengths_markdown(measured: Sequence[LengthMeasures]) -> Markdown:
    parts = [Markdown("# Lengths"), Markdown(HOW)]
    for one in measured:
        parts += _section(one)
    return Markdown("\n\n").join(parts) + Markdown("\n")


def _section(one: LengthMeasures) -> list[Markdown]:
    parts = [Markdown("## {}").format(one.benchmark), Markdown("{}").format(_counts(one))]
    if one.problems:
        parts += [image(f"{one.benchmark}/{PLOT}"), _spreads(one.problems), _widest(one.problems)]
    if one.cells:
        parts.append(Markdown("### By verdict, difficulty and source"))
        parts += [Markdown(BY_SHARE) if one.by_share else Markdown(BY_ROW), _cells(one)]
    if one.parts:
        parts += [Markdown("### Where the length goes"), _parts(one)]
    if one.verbosity is not None:
        rows = [(name, f"{value:,.0f}") for name, value in one.verbosity.median.items()]
        rows.append(("YapIndex", f"{one.verbosity.index:,.0f}"))
        parts += [Markdown("### Beyond what is enough"), Markdown(VERBOSE)]
        parts.append(table(("category", "characters beyond the baseline"), rows))
    if one.targets:
        parts += [Markdown("### Asked for a length"), Markdown(TARGETED)]
        parts.append(_targets(one))
    return parts


def _counts(one: LengthMeasures) -> str:
    sentences = [f"{one.num_responses} responses to {len(one.problems)} problems."]
    if one.num_unknown:
        sentences.append(f"The lengths of {one.num_unknown} are not known, and in no number.")
    partly = sum(problem.loops_in_part for problem in one.problems)
    looping = sum(problem.looping for problem in one.problems)
    truncated = sum(problem.truncated for problem in one.problems)
    sentences.append(
        f"{truncated} were cut off at the budget and {looping} loop; {partly} problems have "
        "looping responses beside others that do not."
    )
    if all(problem.spread.std is None for problem in one.problems):
        sentences.append(
            "Each problem was asked once, so there is no deviation within one; ask with "
            "--samples_per_problem 10 --sampling.temperature 1."
        )
    return " ".join(sentences)


def _spreads(problems: Sequence[ProblemLengths]) -> Markdown:
    """Return how each statistic of a problem is spread over the problems."""
    statistics: dict[str, list[float]] = {
        "mean": [p.spread.mean for p in problems],
        "deviation": [p.spread.std for p in problems if p.spread.std is not None],
        "shortest": [p.spread.shortest for p in problems],
        **{name: [getattr(p.spread, name) for p in problems] for name in ("p25", "p50", "p75")},
        "p99": [p.spread.p99 for p in problems],
        "longest": [p.spread.longest for p in problems],
    }
    rows = [
        (name, f"{np.mean(values):,.1f}", *(f"{np.percentile(values, p):,.1f}" for p in _OVER))
        for name, values in statistics.items()
        if values
    ]
    relative = [v for p in problems if (v := p.spread.relative_std) is not None]
    if relative:
        over = (f"{np.percentile(relative, p):.2f}" for p in _OVER)
        rows.append(("deviation / mean", f"{np.mean(relative):.2f}", *over))
    return table(("of a problem", "mean over problems", "p10", "median", "p90"), rows)


_OVER = (10, 50, 90)


def _widest(problems: Sequence[ProblemLengths]) -> Markdown:
    """Return the problems whose responses differ most in length."""
    wide = sorted(
        (p for p in problems if p.spread.std is not None), key=lambda p: -(p.spread.std or 0.0)
    )[:_SHOWN]
    if not wide:
        return Markdown("")
    rows = [
        (
            p.uid,
            f"{p.spread.mean:,.1f}",
            "-" if p.spread.std is None else f"{p.spread.std:,.1f}",
            f"{p.spread.shortest:,} to {p.spread.longest:,}",
            percent(p.right_frac),
            p.truncated,
            p.looping,
        )
        for p in wide
    ]
    headings = ("most unlike", "mean", "deviation", "tokens", "right, %", "cut off", "looping")
    return table(headings, rows)


def _cells(one: LengthMeasures) -> Markdown:
    kind = "share right" if one.by_share else "of the row"
    headings = ("source", f"difficulty ({kind})", "verdict", "responses", "cut off", "mean")
    rows = [
        (
            cell.source,
            cell.difficulty,
            cell.verdict,
            cell.num_responses,
            cell.num_truncated,
            *(f"{value:,.1f}" for value in (cell.mean, cell.median, cell.p90)),
        )
        for cell in one.cells
    ]
    return table((*headings, "median", "p90"), rows)


def _parts(one: LengthMeasures) -> Markdown:
    names = {
        "responses": lambda p: str(p.num_responses),
        "of these that think": lambda p: str(p.num_thinking),
        "of these whose thinking never ends": lambda p: str(p.num_unfinished),
        "thinking, tokens": lambda p: _tokens(p.thinking_tokens),
        "answer, tokens": lambda p: _tokens(p.answer_tokens),
        "thinking, characters": lambda p: f"{p.thinking_chars:,.0f}",
        "answer, characters": lambda p: f"{p.answer_chars:,.0f}",
        "thinking, % of a response's characters": lambda p: percent(p.thinking_frac),
        "repeated 4-grams in thinking, %": lambda p: percent(p.repeated_in_thinking),
        "repeated 4-grams in the answer, %": lambda p: percent(p.repeated_in_answer),
        "repeated 4-grams in all, %": lambda p: percent(p.repeated_frac),
        "responses that loop, %": lambda p: percent(p.looping_frac),
    }
    kinds: list[LengthParts] = list(one.parts.values())
    rows = [(name, *(show(part) for part in kinds)) for name, show in names.items()]
    return table(("mean of responses", *one.parts), rows)


def _tokens(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _targets(one: LengthMeasures) -> Markdown:
    thinks = any(match.precise_after for match in one.targets)
    rows = [_target(match, thinks) for match in one.targets]
    headings = ["asked for, words", "responses", "mean words", "precise, %", "flexible, %"]
    headings += ["precise after thinking, %", "flexible after thinking, %"] if thinks else []
    right = interval(one.accuracy_with_target)
    sentence = Markdown("{}").format(f"Strict accuracy of these responses: {right} %.")
    return table(headings, rows) + Markdown("\n\n") + sentence


def _target(match: TargetMatch, thinks: bool) -> tuple[object, ...]:
    more_than = "more than " if match.name == "800" else ""
    after = (match.precise_after, match.flexible_after) if thinks else ()
    shown = (interval(one) for one in (match.precise, match.flexible, *after))
    return (f"{more_than}{match.name}", match.num_responses, f"{match.mean_words:,.1f}", *shown)
