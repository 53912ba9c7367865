"""From judged responses to figures: every number of an evaluation, ready for JSON.

A timeout or an error of the checker says nothing about the policy: such a response is counted and
left out of every accuracy. In pass@k and maj@k, which need every sample of a question, it is wrong
and no answer: leaving the question out would favour those that are easy to check. Accuracies are
means over questions, with intervals over clusters.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import numpy as np
import torch

from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.benchmark import (
    Judged,
    Published,
    categories_of,
    cluster_of,
    num_options,
)
from vlm_rl.evaluation.intervals import (
    Estimate,
    FloatArray,
    avg_at_k,
    clustered,
    maj_at_k,
    paired,
    pass_at_k,
)
from vlm_rl.metrics.length import equal_mass_edges
from vlm_rl.records import Verdict

QUANTILES = {"p10": 0.1, "median": 0.5, "p90": 0.9, "p99": 0.99}
NUM_BINS = 10


@dataclass(frozen=True)
class Evaluation:
    """A model's judged responses to one benchmark and all that its report says about them.

    `settings` say how the responses came about (sampling, prompt, pixels, versions, seeds).
    `measures` are the benchmark's own, as fractions. `skipped` counts, by reason, what of the
    benchmark was not asked. `blind` are responses to the same questions without their images.
    """

    benchmark: str
    split: str
    source: str
    model: str
    judged: Sequence[Judged]
    settings: Mapping[str, Any] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)
    published: Sequence[Published] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    blind: Sequence[Judged] = ()
    notes: str = ""

    def __post_init__(self) -> None:
        if not self.judged:
            raise ValueError(f"{self.benchmark}: there is no judged response to report on")


def figures(evaluation: Evaluation) -> dict[str, Any]:
    """Every figure of `evaluation`; fractions in [0, 1], lengths in tokens, None where unknown."""
    judged = evaluation.judged
    scored = _scored(judged)
    questions = _by_question(scored)
    samples = [len(found) for found in _by_question(judged)]
    checked = [one for one in _by_question(judged) if _scored(one)]
    return {
        "benchmark": evaluation.benchmark,
        "split": evaluation.split,
        "source": evaluation.source,
        "model": evaluation.model,
        "num_questions": len(samples),
        "num_published": _num_published(judged),
        "num_clusters": len({cluster_of(one.problem) for one in judged}),
        "num_responses": len(judged),
        "samples_per_question": {"least": min(samples), "most": max(samples)},
        "excluded": {
            "timeout": sum(one.verdict is Verdict.TIMEOUT for one in judged),
            "error": sum(one.verdict is Verdict.ERROR for one in judged),
            "questions_without_verdict": len(samples) - len(questions),
        },
        "refused": dict(Counter(one.response.refused for one in judged if one.response.refused)),
        "accuracy": _mean(questions),
        **_chance(questions),
        "pass_at_k": _at_k(checked, max(samples), _pass),
        "maj_at_k": _at_k(checked, max(samples), _majority),
        "official": _official(judged),
        "extraction": _extraction(scored),
        "truncated": _truncated(judged),
        "length_tokens": _lengths(judged),
        "accuracy_by_length": _by_length(scored),
        "tokens_per_correct": _tokens_per_correct(judged),
        "categories": _categories(questions),
        "blind": _blind(scored, evaluation.blind),
        "measures": dict(evaluation.measures),
        "published": [dataclasses.asdict(one) for one in evaluation.published],
        "skipped": dict(evaluation.skipped),
        "settings": dict(evaluation.settings),
        "notes": evaluation.notes,
    }


def metrics(found: Mapping[str, Any]) -> dict[str, float]:
    """The `figures` of one benchmark that make curves, by names such as `eval/mathvision/accuracy`;
    what is unknown is left out."""
    values: dict[str, float | None] = {
        f"{name}{end}": estimate[field]
        for name, estimate in _curves(found).items()
        if estimate is not None
        for end, field in {"": "mean", "_low": "low", "_high": "high"}.items()
    }
    lengths = found["length_tokens"] or {}
    values |= {
        {"all": "length_tokens"}.get(kind, f"length_{kind}_tokens"): part["mean"]
        for kind, part in lengths.items()
        if part is not None
    }
    assert not values.keys() & found["measures"].keys(), "a measure must not hide another figure"
    excluded = found["excluded"]
    values |= {
        "tokens_per_correct": found["tokens_per_correct"],
        "extraction_failure_frac": found["extraction"]["frac"],
        "truncated_frac": found["truncated"] and found["truncated"]["frac"],
        "excluded_frac": (excluded["timeout"] + excluded["error"]) / found["num_responses"],
        **found["measures"],
    }
    prefix = f"eval/{found['benchmark']}"
    return {f"{prefix}/{name}": float(v) for name, v in values.items() if v is not None}


def _curves(found: Mapping[str, Any]) -> dict[str, Mapping[str, float] | None]:
    official, blind = found["official"], found["blind"]
    return {
        "accuracy": found["accuracy"],
        "official_accuracy": official and official["accuracy"],
        "blind_accuracy": blind and blind["accuracy"],
        **{f"pass_at_{k}": one for k, one in found["pass_at_k"].items()},
        **{f"maj_at_{k}": one for k, one in found["maj_at_k"].items()},
    }


def _by_question(judged: Sequence[Judged]) -> list[list[Judged]]:
    found: dict[str, list[Judged]] = {}
    for one in judged:
        found.setdefault(one.problem.uid, []).append(one)
    return list(found.values())


Questions = Sequence[Sequence[Judged]]
"""[Q][k]: the responses to each question."""


def _clusters(questions: Questions) -> list[str]:
    return [cluster_of(samples[0].problem) for samples in questions]


def _plain(estimate: Estimate) -> dict[str, Any]:
    return dataclasses.asdict(estimate)


def _mean(
    questions: Questions, correct: Callable[[Judged], bool] = lambda one: one.correct
) -> dict[str, Any] | None:
    """avg@k with its interval, None without questions."""
    if not questions:
        return None
    return _plain(clustered(_shares(questions, correct), _clusters(questions)))


def _shares(
    questions: Questions, correct: Callable[[Judged], bool] = lambda one: one.correct
) -> FloatArray:
    return avg_at_k([[correct(one) for one in samples] for samples in questions])


def _num_published(judged: Sequence[Judged]) -> int | None:
    """How many problems the split has as it is published, where that is known."""
    problem = judged[0].problem
    known = BENCHMARKS[problem.task].sizes if problem.task in BENCHMARKS else {}
    return known.get(problem.split)


def _chance(questions: Questions) -> dict[str, Any]:
    """What guessing among the options would get, over the questions of which it is known how many
    they have; one without options counts 0. None where no question is known to have some."""
    counts = [num_options(samples[0].problem) for samples in questions]
    known = [count for count in counts if count is not None]
    chance = float(np.mean([1 / n if n else 0 for n in known])) if any(known) else None
    return {"chance": chance, "num_chance_questions": len(known)}


def _pass(samples: Sequence[Judged], k: int) -> float:
    return pass_at_k(len(samples), sum(one.correct for one in samples), k)


def _majority(samples: Sequence[Judged], k: int) -> float:
    classes = [one.answer_class if one.verdict.scored else None for one in samples]
    return maj_at_k(classes, [one.correct for one in samples], k)


def _at_k(
    questions: Questions, most: int, value: Callable[[Sequence[Judged], int], float]
) -> dict[str, Any]:
    """Estimates at k = 2, 4, 8 .. up to `most`, each over the questions with k samples."""
    found = {}
    for k in (2**power for power in range(1, most.bit_length())):
        enough = [samples for samples in questions if len(samples) >= k]
        if enough:
            values = [value(samples, k) for samples in enough]
            found[str(k)] = _plain(clustered(values, _clusters(enough)))
    return found


def _official(judged: Sequence[Judged]) -> dict[str, Any] | None:
    """The authors' rule and ours on the same responses, None where no response has a ruling."""
    ruled = [one for one in judged if one.official is not None]
    if not ruled:
        return None
    both = [one for one in ruled if one.verdict.scored]
    rulings = Counter((_official_correct(one), one.correct) for one in both)
    return {
        "accuracy": _mean(_by_question(ruled), _official_correct),
        "strict": _mean(_by_question(both)),
        "num_responses": len(ruled),
        "no_ruling": len(judged) - len(ruled),
        "right_by_official_only": rulings[True, False],
        "right_by_strict_only": rulings[False, True],
    }


def _official_correct(one: Judged) -> bool:
    return one.official is not None and one.official.correct


def _extraction(scored: Sequence[Judged]) -> dict[str, Any]:
    """`no_answer`: no answer slot, or several; `unparsable`: an answer that can not be read."""
    blank = sum(one.answer is None for one in scored)
    unread = sum(one.answer is not None and one.verdict is Verdict.UNPARSABLE for one in scored)
    frac = (blank + unread) / len(scored) if scored else None
    return {"no_answer": blank, "unparsable": unread, "frac": frac}


def _truncated(judged: Sequence[Judged]) -> dict[str, Any] | None:
    known = [one.response.truncated for one in judged if one.response.truncated is not None]
    return {"frac": sum(known) / len(known), "num_known": len(known)} if known else None


def _lengths(judged: Sequence[Judged]) -> dict[str, Any] | None:
    """Distribution of lengths: all, correct and wrong; None where no length is known."""
    kinds: dict[str, Callable[[Judged], bool]] = {
        "all": lambda one: True,
        "correct": lambda one: one.correct,
        "wrong": lambda one: one.verdict.scored and not one.correct,
    }
    found = {kind: _distribution(lengths_of(judged, keep)) for kind, keep in kinds.items()}
    return found if found["all"] else None


def lengths_of(judged: Sequence[Judged], keep: Callable[[Judged], bool]) -> list[int]:
    """Known lengths in tokens of the responses to `keep`."""
    lengths = [one.response.length_tokens for one in judged if keep(one)]
    return [length for length in lengths if length is not None]


def _distribution(lengths: Sequence[int]) -> dict[str, float] | None:
    if not lengths:
        return None
    quantiles = {name: float(np.quantile(lengths, q)) for name, q in QUANTILES.items()}
    return {"num_responses": len(lengths), "mean": float(np.mean(lengths)), **quantiles}


def _by_length(scored: Sequence[Judged]) -> list[dict[str, Any]]:
    """Accuracy in bins of about equally many responses, short to long; empty without lengths."""
    known = [one for one in scored if one.response.length_tokens is not None]
    if not known:
        return []
    lengths = torch.tensor(lengths_of(known, lambda one: True))
    bins = torch.bucketize(lengths, equal_mass_edges(lengths, NUM_BINS))
    found = []
    for number in bins.unique():
        inside = (bins == number).tolist()
        part = list(compress(known, inside))
        values = [float(one.correct) for one in part]
        estimate = clustered(values, [cluster_of(one.problem) for one in part])
        found.append(
            {
                "least": int(lengths[inside].min()),
                "most": int(lengths[inside].max()),
                "mean_length": float(lengths[inside].double().mean()),
                "num_responses": len(part),
                **{name: getattr(estimate, name) for name in ("mean", "low", "high")},
            }
        )
    return found


def _tokens_per_correct(judged: Sequence[Judged]) -> float | None:
    """Tokens of right and wrong answers over the number of right ones, where lengths are known."""
    spent = lengths_of(judged, lambda one: one.verdict.scored)
    right = lengths_of(judged, lambda one: one.correct)
    return sum(spent) / len(right) if right else None


def _categories(questions: Questions) -> dict[str, dict[str, Any]]:
    """Accuracy by category and value, in the order of the values' names."""
    groups: dict[str, dict[str, list[Sequence[Judged]]]] = {}
    for samples in questions:
        for category, value in categories_of(samples[0].problem).items():
            groups.setdefault(category, {}).setdefault(value, []).append(samples)
    return {
        category: {value: _mean(parts[value]) for value in sorted(parts, key=_natural)}
        for category, parts in sorted(groups.items())
    }


def _natural(text: str) -> tuple[bool, float, str]:
    """Orders 2 before 10, and numbers before words."""
    return (not text.isdecimal(), float(text) if text.isdecimal() else 0.0, text)


def _blind(scored: Sequence[Judged], blind: Sequence[Judged]) -> dict[str, Any] | None:
    """Accuracy without images, and what the images add over the questions judged both ways."""
    without = {found[0].problem.uid: found for found in _by_question(_scored(blind))}
    both = [samples for samples in _by_question(scored) if samples[0].problem.uid in without]
    if not both:
        return None
    controls = [without[samples[0].problem.uid] for samples in both]
    added = paired(_shares(controls), _shares(both), _clusters(both))
    return {"accuracy": _mean(controls), "images_add": dataclasses.asdict(added)}


def _scored(judged: Sequence[Judged]) -> list[Judged]:
    return [one for one in judged if one.verdict.scored]
