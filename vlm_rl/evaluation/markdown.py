"""The Markdown of an evaluation: results in tables that a person reads."""

from collections.abc import Mapping, Sequence

from vlm_rl.evaluation.intervals import Difference, IntervalEstimate, RatioEstimate
from vlm_rl.evaluation.results import BenchmarkResult, OfficialResult
from vlm_rl.evaluation.summary import QUANTILES
from vlm_rl.show.json_text import json_text
from vlm_rl.show.markdown import Markdown, image, table

READING = (
    "Accuracies are in percent, with the 95 % interval in brackets; questions that are versions of "
    "one another count as one draw in it. *Strict* is this project's verifier, which also rewards "
    "training; *official* is what the benchmark's authors' code calls right, chance credit "
    "included. Where that code asks a model to extract the answer, *by reading* has a rule of ours "
    "in its place, and no chance credit."
)
NOT_OURS = (
    "Printed by others, with another harness and other prompts, sampling and checking of answers: "
    "no difference to the figures above can be read off."
)

MeasureRow = tuple[str, str, object]
"""What is measured, its value, and over how many questions."""


def markdown(
    results: Sequence[BenchmarkResult],
    *,
    overviews: Sequence[str],
    plots: Mapping[str, Sequence[str]],
    with_lengths: bool = False,
) -> Markdown:
    """Return the report over several benchmarks; `overviews` are paths of plots of all,
    `plots` of one benchmark."""
    models = ", ".join(dict.fromkeys(result.model for result in results))
    heading = Markdown("# Evaluation of {}").format(models)
    parts = [heading, Markdown(READING), _overview(results), *map(image, overviews)]
    parts += [Markdown("Where the length goes: [lengths.md](lengths.md).")] if with_lengths else []
    for result in results:
        parts += [*_section(result), *(image(path) for path in plots[result.benchmark])]
    return Markdown("\n\n").join(part for part in parts if part) + Markdown("\n")


def percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def interval(estimate: IntervalEstimate | Difference | None) -> str:
    if estimate is None:
        return "-"
    return f"{percent(estimate.mean)} [{percent(estimate.low)}, {percent(estimate.high)}]"


def per_right(spent: RatioEstimate | None) -> str:
    """Return the tokens spent per right answer with the interval; - without a right answer or
    without known lengths."""
    if spent is None:
        return "-"
    if spent.low is None or spent.high is None:
        return f"{spent.value:,.0f}"
    return f"{spent.value:,.0f} [{spent.low:,.0f}, {spent.high:,.0f}]"


def asked(result: BenchmarkResult) -> str:
    """Return how many questions were asked, and of how many if these are only part of the split:
    such numbers are not those of the split."""
    if not result.is_partial:
        return str(result.num_questions)
    return f"{result.num_questions:,} of {result.num_published:,}"


def p_text(p_value: float | None) -> str:
    if p_value is None:
        return "-"
    return "< 0.0001" if p_value < 0.0001 else f"{p_value:.2g}"


def _overview(results: Sequence[BenchmarkResult]) -> Markdown:
    headings = (
        "benchmark",
        "questions",
        "samples",
        "strict",
        "official",
        "by reading",
        "most samples",
        "no answer read",
        "truncated",
        "tokens",
        "tokens per right answer",
    )
    rows = [
        (
            result.benchmark,
            asked(result),
            _samples(result),
            interval(result.accuracy),
            interval(result.official_accuracy),
            interval(result.reading_accuracy),
            _most_samples(result),
            percent(result.extraction.frac),
            percent(result.truncated_frac),
            _tokens(result.mean_length),
            per_right(result.tokens_per_correct),
        )
        for result in results
    ]
    return table(headings, rows)


def _samples(result: BenchmarkResult) -> str:
    counts = result.samples_per_question
    return str(counts.most) if counts.least == counts.most else f"{counts.least} to {counts.most}"


def _most_samples(result: BenchmarkResult) -> str:
    """Return pass@k and maj@k at the largest k."""
    if not result.pass_at_k:
        return "-"
    k = max(result.pass_at_k)
    passed, majority = result.pass_at_k[k].mean, result.maj_at_k[k].mean
    return f"pass@{k} {percent(passed)}, maj@{k} {percent(majority)}"


def _tokens(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _section(result: BenchmarkResult) -> list[Markdown]:
    return [
        Markdown("## {} ({})").format(result.benchmark, result.split),
        Markdown("{}").format(_summary(result)),
        Markdown("{}").format(result.notes),
        table(("measure", "value", "questions"), _measures(result)),
        _lengths(result),
        *(_category(name, values) for name, values in result.categories.items()),
        _published(result),
        _settings(result),
    ]


def _summary(result: BenchmarkResult) -> str:
    """Say where the questions come from, and what is not in the numbers."""
    excluded = result.excluded
    sentences = [
        f"{result.num_questions} questions ({result.num_clusters} clusters) from {result.source}, "
        f"{result.num_responses} responses of {result.model}.",
        *([f"These are {asked(result)} published problems."] if result.is_partial else []),
        f"Checking timed out on {excluded.timeout} responses and failed on {excluded.error}: "
        f"these {excluded.num_responses} are left out of every accuracy, and "
        f"{excluded.questions_without_verdict} questions with them; in pass@k and maj@k they count "
        "as wrong.",
    ]
    if result.refused:
        refused = _counts(result.refused)
        sentences.append(f"Refused by the policy's limits and counted: {refused}.")
    return " ".join([*sentences, f"Left out beforehand: {_counts(result.skipped) or 'nothing'}."])


def _counts(by_reason: Mapping[str, int]) -> str:
    return "; ".join(f"{count} x {reason}" for reason, count in by_reason.items())


def _measures(result: BenchmarkResult) -> list[MeasureRow]:
    rows = [_estimate(f"strict accuracy, avg@{_samples(result)}", result.accuracy)]
    rows += [_estimate(f"pass@{k}", estimate) for k, estimate in result.pass_at_k.items()]
    rows += [_estimate(f"maj@{k}", estimate) for k, estimate in result.maj_at_k.items()]
    rows += _rulings(result)
    rows += [(name.replace("_", " "), percent(v), "") for name, v in result.measures.items()]
    rows += _control(result)
    extraction = result.extraction
    rows += [
        (
            f"no answer read ({extraction.no_answer} without an answer, "
            f"{extraction.unparsable} unreadable), % of responses",
            percent(extraction.frac),
            "",
        ),
        ("cut off at the budget, % of responses", percent(result.truncated_frac), ""),
        (
            "tokens per right answer, of right and wrong ones",
            per_right(result.tokens_per_correct),
            "",
        ),
    ]
    return rows


def _estimate(name: str, estimate: IntervalEstimate | Difference | None) -> MeasureRow:
    return name, interval(estimate), "" if estimate is None else estimate.num_questions


def _rulings(result: BenchmarkResult) -> list[MeasureRow]:
    rows: list[MeasureRow] = []
    if result.official:
        rows += _ruling("official accuracy", "by the official rule", result.official)
    if result.reading:
        rows += _ruling("accuracy by reading", "by reading", result.reading)
    return rows or [("official accuracy: no rule without a judge", "-", "")]


def _ruling(name: str, how: str, official: OfficialResult) -> list[MeasureRow]:
    return [
        _estimate(name, official.accuracy),
        _estimate("strict accuracy of the same responses", official.strict),
        (f"responses right {how} only", str(official.right_by_official_only), ""),
        ("responses right by the strict rule only", str(official.right_by_strict_only), ""),
        (f"responses without a ruling {how}", str(official.no_ruling), ""),
    ]


def _control(result: BenchmarkResult) -> list[MeasureRow]:
    rows: list[MeasureRow] = []
    if result.chance is not None:
        chance = percent(result.chance)
        rows.append(("guessing among options", chance, result.num_chance_questions))
    if result.blind:
        added = result.blind.images_add
        rows += [
            _estimate("strict accuracy without images", result.blind.accuracy),
            _estimate(f"images add, in points (p {p_text(added.p_value)})", added),
        ]
    return rows


def _lengths(result: BenchmarkResult) -> Markdown:
    lengths = result.length_tokens
    if lengths is None:
        return Markdown("Lengths in tokens are not known.")
    kinds = {"all": lengths.all, "correct": lengths.correct, "wrong": lengths.wrong}
    rows = [
        (kind, part.num_responses, *(_tokens(getattr(part, name)) for name in ("mean", *QUANTILES)))
        for kind, part in kinds.items()
        if part is not None
    ]
    return table(("length in tokens", "responses", "mean", *QUANTILES), rows)


def _category(name: str, values: Mapping[str, IntervalEstimate]) -> Markdown:
    rows = [(value, interval(part), part.num_questions) for value, part in values.items()]
    return table((name, "strict", "questions"), rows)


def _published(result: BenchmarkResult) -> Markdown:
    if not result.published:
        return Markdown("Published figures: none on record.")
    rows = [(one.model, one.measure, f"{one.percent:g}", one.source) for one in result.published]
    return (
        Markdown(NOT_OURS) + Markdown("\n\n") + table(("published", "measure", "%", "source"), rows)
    )


def _settings(result: BenchmarkResult) -> Markdown:
    rows = [(name, _setting(value)) for name, value in result.settings.items()]
    return table(("setting", "value"), rows) if rows else Markdown("")


def _setting(value: object) -> str:
    return value if isinstance(value, str) else json_text(value)
