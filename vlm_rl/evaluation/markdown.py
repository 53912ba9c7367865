"""The Markdown of an evaluation: figures in tables that a person reads."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlm_rl.evaluation.results import QUANTILES

Figures = Mapping[str, Any]

READING = (
    "Accuracies are in percent, with the 95 % interval in brackets; questions that are versions of "
    "one another count as one draw in it. *Strict* is this project's verifier, which also rewards "
    "training; *official* is what the benchmark's authors' rule calls right."
)
NOT_OURS = (
    "Printed by others, with another harness and other prompts, sampling and checking of answers: "
    "no difference to the figures above can be read off."
)


def markdown(
    found: Sequence[Figures], *, overview: str, pictures: Mapping[str, Sequence[str]]
) -> str:
    """The report over several benchmarks; `pictures` are the paths by benchmark."""
    models = ", ".join(dict.fromkeys(one["model"] for one in found))
    parts = [f"# Evaluation of {_cell(models)}", READING, _overview(found), _picture(overview)]
    for one in found:
        parts += [*_section(one), *(_picture(path) for path in pictures[one["benchmark"]])]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, its first column to the left and the others to the right."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    lines = [headings, rule, *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def interval(estimate: Figures | None) -> str:
    if estimate is None:
        return "-"
    return f"{percent(estimate['mean'])} [{percent(estimate['low'])}, {percent(estimate['high'])}]"


def asked(one: Figures) -> str:
    """How many questions were asked, and of how many where these are not all that were published:
    such figures are not those of the split."""
    of = one["num_published"]
    partial = of is not None and of != one["num_questions"]
    return f"{one['num_questions']:,} of {of:,}" if partial else str(one["num_questions"])


def p_text(p_value: float | None) -> str:
    if p_value is None:
        return "-"
    return "< 0.0001" if p_value < 0.0001 else f"{p_value:.2g}"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _picture(path: str) -> str:
    return f"![{path}]({path.replace(' ', '%20')})"


def _overview(found: Sequence[Figures]) -> str:
    headings = (
        "benchmark",
        "questions",
        "samples",
        "strict",
        "official",
        "most samples",
        "no answer read",
        "truncated",
        "tokens",
    )
    rows = [
        (
            one["benchmark"],
            asked(one),
            _samples(one),
            interval(one["accuracy"]),
            interval(one["official"] and one["official"]["accuracy"]),
            _most_samples(one),
            percent(one["extraction"]["frac"]),
            percent(one["truncated"] and one["truncated"]["frac"]),
            _tokens(one["length_tokens"] and one["length_tokens"]["all"]["mean"]),
        )
        for one in found
    ]
    return table(headings, rows)


def _samples(one: Figures) -> str:
    least, most = one["samples_per_question"]["least"], one["samples_per_question"]["most"]
    return str(most) if least == most else f"{least} to {most}"


def _most_samples(one: Figures) -> str:
    """pass@k and maj@k at the largest k."""
    if not one["pass_at_k"]:
        return "-"
    k = list(one["pass_at_k"])[-1]
    passed, majority = one["pass_at_k"][k]["mean"], one["maj_at_k"][k]["mean"]
    return f"pass@{k} {percent(passed)}, maj@{k} {percent(majority)}"


def _tokens(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _section(one: Figures) -> list[str]:
    heading = f"## {_cell(one['benchmark'])} ({_cell(one['split'])})"
    return [
        heading,
        _what(one),
        one["notes"],
        table(("measure", "value", "questions"), _measures(one)),
        _lengths(one),
        *(_category(name, values) for name, values in one["categories"].items()),
        _published(one),
        _settings(one),
    ]


def _what(one: Figures) -> str:
    """Where the questions come from, and everything that is not in the figures."""
    excluded = one["excluded"]
    lost = excluded["timeout"] + excluded["error"]
    sentences = [
        f"{one['num_questions']} questions ({one['num_clusters']} clusters) from {one['source']}, "
        f"{one['num_responses']} responses of {one['model']}.",
        *([f"These are {asked(one)} published problems."] if " of " in asked(one) else []),
        f"Checking timed out on {excluded['timeout']} responses and failed on {excluded['error']}: "
        f"these {lost} are left out of every accuracy, and {excluded['questions_without_verdict']} "
        "questions with them; in pass@k and maj@k they count as wrong.",
    ]
    if one["refused"]:
        sentences.append(f"Refused by the policy's limits and counted: {_counts(one['refused'])}.")
    return " ".join([*sentences, f"Left out beforehand: {_counts(one['skipped']) or 'nothing'}."])


def _counts(by_reason: Mapping[str, int]) -> str:
    return "; ".join(f"{count} x {reason}" for reason, count in by_reason.items())


def _measures(one: Figures) -> list[tuple[str, str, object]]:
    rows = [_estimate(f"strict accuracy, avg@{_samples(one)}", one["accuracy"])]
    for name in ("pass", "maj"):
        found = one[f"{name}_at_k"].items()
        rows += [_estimate(f"{name}@{k}", estimate) for k, estimate in found]
    rows += _official(one["official"])
    rows += [(name.replace("_", " "), percent(v), "") for name, v in one["measures"].items()]
    rows += _control(one)
    extraction, truncated = one["extraction"], one["truncated"]
    rows += [
        (
            f"no answer read ({extraction['no_answer']} without an answer, "
            f"{extraction['unparsable']} unreadable), % of responses",
            percent(extraction["frac"]),
            "",
        ),
        ("cut off at the budget, % of responses", percent(truncated and truncated["frac"]), ""),
        ("tokens per right answer", _tokens(one["tokens_per_correct"]), ""),
    ]
    return rows


def _estimate(name: str, estimate: Figures | None) -> tuple[str, str, object]:
    return name, interval(estimate), "" if estimate is None else estimate["num_questions"]


def _official(official: Figures | None) -> list[tuple[str, str, object]]:
    if official is None:
        return [("official accuracy: no rule without a judge", "-", "")]
    return [
        _estimate("official accuracy", official["accuracy"]),
        _estimate("strict accuracy of the same responses", official["strict"]),
        ("responses right by the official rule only", str(official["right_by_official_only"]), ""),
        ("responses right by the strict rule only", str(official["right_by_strict_only"]), ""),
        ("responses without an official ruling", str(official["no_ruling"]), ""),
    ]


def _control(one: Figures) -> list[tuple[str, str, object]]:
    blind = one["blind"]
    rows: list[tuple[str, str, object]] = []
    if one["chance"] is not None:
        rows.append(("guessing among options", percent(one["chance"]), one["num_chance_questions"]))
    if blind:
        added = blind["images_add"]
        rows += [
            _estimate("strict accuracy without images", blind["accuracy"]),
            _estimate(f"images add, in points (p {p_text(added['p_value'])})", added),
        ]
    return rows


def _lengths(one: Figures) -> str:
    if one["length_tokens"] is None:
        return "Lengths in tokens are not known."
    rows = [
        (kind, part["num_responses"], *(_tokens(part[name]) for name in ("mean", *QUANTILES)))
        for kind, part in one["length_tokens"].items()
        if part is not None
    ]
    return table(("length in tokens", "responses", "mean", *QUANTILES), rows)


def _category(name: str, values: Figures) -> str:
    rows = [(value, interval(part), part["num_questions"]) for value, part in values.items()]
    return table((_cell(name), "strict", "questions"), rows)


def _published(one: Figures) -> str:
    if not one["published"]:
        return "Published figures: none on record."
    rows = [
        (found["model"], found["measure"], f"{found['percent']:g}", found["source"])
        for found in one["published"]
    ]
    return f"{NOT_OURS}\n\n" + table(("published", "measure", "%", "source"), rows)


def _settings(one: Figures) -> str:
    rows = [(name, _setting(value)) for name, value in one["settings"].items()]
    return table(("setting", "value"), rows) if rows else ""


def _setting(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
