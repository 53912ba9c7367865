"""From judged responses to the result of a benchmark.

A timeout or an error of the checker says nothing about the policy: such a response is counted and
left out of every accuracy. In pass@k and maj@k, which need every sample of a question, it is wrong
and no answer: leaving the question out would favour those that are easy to check. Accuracies are
means over questions, with intervals over clusters.
"""

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
    PublishedResult,
    categories_of,
    cluster_of,
    num_options,
)
from vlm_rl.evaluation.intervals import (
    FloatArray,
    IntervalEstimate,
    RatioEstimate,
    avg_at_k,
    clustered,
    maj_at_k,
    paired,
    pass_at_k,
    ratio,
)
from vlm_rl.evaluation.results import (
    AccuracyAtLength,
    BenchmarkResult,
    BlindResult,
    Excluded,
    ExtractionFailures,
    LengthDistribution,
    LengthsByVerdict,
    OfficialResult,
    SampleCounts,
    Truncation,
)
from vlm_rl.metrics.length import equal_mass_edges
from vlm_rl.records import Verdict

QUANTILES = {"p10": 0.1, "median": 0.5, "p90": 0.9, "p99": 0.99}
NUM_BINS = 10

JudgedQuestions = Sequence[Sequence[Judged]]
"""[Q][k]: the judged samples of each question."""


@dataclass(frozen=True)
class Evaluation:
    """A model's judged responses to one benchmark, and what its report says beside them.

    `settings` say how the responses came about (sampling, prompt, pixels, versions, seeds).
    `measures` are the benchmark's own, as fractions. `skipped` counts, by reason, the problems of
    the benchmark that were not asked. `blind` holds responses to the same questions without images.
    """

    benchmark: str
    split: str
    source: str
    model: str
    judged: Sequence[Judged]
    settings: Mapping[str, Any] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)
    published: Sequence[PublishedResult] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    blind: Sequence[Judged] = ()
    notes: str = ""

    def __post_init__(self) -> None:
        if not self.judged:
            raise ValueError(f"{self.benchmark}: there is no judged response to report on")


def summarise(evaluation: Evaluation) -> BenchmarkResult:
    """Compute every number that the report of `evaluation` shows."""
    judged = evaluation.judged
    questions = _by_question(judged)
    counts = [len(samples) for samples in questions]
    scored = _scored(judged)
    scored_questions = _by_question(scored)
    checked = [samples for samples in questions if _scored(samples)]
    chance, num_chance_questions = _chance(scored_questions)
    return BenchmarkResult(
        benchmark=evaluation.benchmark,
        split=evaluation.split,
        source=evaluation.source,
        model=evaluation.model,
        num_questions=len(questions),
        num_published=_num_published(judged),
        num_clusters=len({cluster_of(one.problem) for one in judged}),
        num_responses=len(judged),
        samples_per_question=SampleCounts(min(counts), max(counts)),
        excluded=Excluded(
            timeout=sum(one.verdict is Verdict.TIMEOUT for one in judged),
            error=sum(one.verdict is Verdict.ERROR for one in judged),
            questions_without_verdict=len(questions) - len(scored_questions),
        ),
        refused=dict(Counter(one.response.refused for one in judged if one.response.refused)),
        accuracy=_accuracy(scored_questions),
        chance=chance,
        num_chance_questions=num_chance_questions,
        pass_at_k=_at_k(checked, max(counts), _pass),
        maj_at_k=_at_k(checked, max(counts), _majority),
        official=_official(judged, by_reading=False),
        reading=_official(judged, by_reading=True),
        extraction=_extraction(scored),
        truncated=_truncated(judged),
        length_tokens=_lengths(judged),
        accuracy_by_length=_by_length(scored),
        tokens_per_correct=_tokens_per_correct(judged),
        categories=_categories(scored_questions),
        blind=_blind(scored, evaluation.blind),
        measures=dict(evaluation.measures),
        published=evaluation.published,
        skipped=dict(evaluation.skipped),
        settings=dict(evaluation.settings),
        notes=evaluation.notes,
    )


def lengths_of(judged: Sequence[Judged], keep: Callable[[Judged], bool]) -> list[int]:
    """Return the known lengths in tokens of the responses to `keep`."""
    lengths = [one.response.length_tokens for one in judged if keep(one)]
    return [length for length in lengths if length is not None]


def is_correct(one: Judged) -> bool:
    return one.correct


def is_wrong(one: Judged) -> bool:
    """Whether the verifier judged the response, and not as right."""
    return one.verdict.scored and not one.correct


def _by_question(judged: Sequence[Judged]) -> list[list[Judged]]:
    questions: dict[str, list[Judged]] = {}
    for one in judged:
        questions.setdefault(one.problem.uid, []).append(one)
    return list(questions.values())


def _scored(judged: Sequence[Judged]) -> list[Judged]:
    return [one for one in judged if one.verdict.scored]


def _clusters(questions: JudgedQuestions) -> list[str]:
    return [cluster_of(samples[0].problem) for samples in questions]


def _accuracy(
    questions: JudgedQuestions, correct: Callable[[Judged], bool] = is_correct
) -> IntervalEstimate | None:
    """Return avg@k with its interval, None without questions."""
    return _mean(questions, correct) if questions else None


def _mean(
    questions: JudgedQuestions, correct: Callable[[Judged], bool] = is_correct
) -> IntervalEstimate:
    return clustered(_shares(questions, correct), _clusters(questions))


def _shares(
    questions: JudgedQuestions, correct: Callable[[Judged], bool] = is_correct
) -> FloatArray:
    return avg_at_k([[correct(one) for one in samples] for samples in questions])


def _num_published(judged: Sequence[Judged]) -> int | None:
    problem = judged[0].problem
    sizes = BENCHMARKS[problem.task].sizes if problem.task in BENCHMARKS else {}
    return sizes.get(problem.split)


def _chance(questions: JudgedQuestions) -> tuple[float | None, int]:
    """Return the chance of guessing right, and over how many questions it is the mean.

    A question without options counts 0. The chance is None if no question is known to have any.
    """
    counts = [num_options(samples[0].problem) for samples in questions]
    known = [count for count in counts if count is not None]
    chance = float(np.mean([1 / n if n else 0 for n in known])) if any(known) else None
    return chance, len(known)


def _pass(samples: Sequence[Judged], k: int) -> float:
    return pass_at_k(len(samples), sum(one.correct for one in samples), k)


def _majority(samples: Sequence[Judged], k: int) -> float:
    classes = [one.answer_class if one.verdict.scored else None for one in samples]
    return maj_at_k(classes, [one.correct for one in samples], k)


def _at_k(
    questions: JudgedQuestions, most: int, value: Callable[[Sequence[Judged], int], float]
) -> dict[int, IntervalEstimate]:
    """Estimate at k = 2, 4, 8 .. up to `most`, each over the questions with k samples."""
    estimates = {}
    for k in (2**power for power in range(1, most.bit_length())):
        enough = [samples for samples in questions if len(samples) >= k]
        if enough:
            values = [value(samples, k) for samples in enough]
            estimates[k] = clustered(values, _clusters(enough))
    return estimates


def _official(judged: Sequence[Judged], *, by_reading: bool) -> OfficialResult | None:
    """Compare both rules; None if no response has a ruling of this kind."""
    ruled = [one for one in judged if one.official and one.official.by_reading is by_reading]
    if not ruled:
        return None
    both = _scored(ruled)
    rulings = Counter((_official_correct(one), one.correct) for one in both)
    return OfficialResult(
        accuracy=_accuracy(_by_question(ruled), _official_correct),
        strict=_accuracy(_by_question(both)),
        num_responses=len(ruled),
        no_ruling=len(judged) - len(ruled),
        right_by_official_only=rulings[True, False],
        right_by_strict_only=rulings[False, True],
    )


def _official_correct(one: Judged) -> bool:
    return one.official is not None and one.official.correct


def _extraction(scored: Sequence[Judged]) -> ExtractionFailures:
    blank = sum(one.answer is None for one in scored)
    unread = sum(one.answer is not None and one.verdict is Verdict.UNPARSABLE for one in scored)
    return ExtractionFailures(blank, unread, (blank + unread) / len(scored) if scored else None)


def _truncated(judged: Sequence[Judged]) -> Truncation | None:
    known = [one.response.truncated for one in judged if one.response.truncated is not None]
    return Truncation(sum(known) / len(known), len(known)) if known else None


def _lengths(judged: Sequence[Judged]) -> LengthsByVerdict | None:
    """Return the distributions of lengths, None if no length is known."""
    everything = _distribution(lengths_of(judged, lambda one: True))
    if everything is None:
        return None
    correct, wrong = (_distribution(lengths_of(judged, keep)) for keep in (is_correct, is_wrong))
    return LengthsByVerdict(everything, correct, wrong)


def _distribution(lengths: Sequence[int]) -> LengthDistribution | None:
    if not lengths:
        return None
    quantiles = {name: float(np.quantile(lengths, q)) for name, q in QUANTILES.items()}
    return LengthDistribution(len(lengths), float(np.mean(lengths)), **quantiles)


def _by_length(scored: Sequence[Judged]) -> list[AccuracyAtLength]:
    """Return accuracy in bins of about equally many responses; no bin if no length is known."""
    known = [one for one in scored if one.response.length_tokens is not None]
    if not known:
        return []
    lengths = torch.tensor(lengths_of(known, lambda one: True))
    bins = torch.bucketize(lengths, equal_mass_edges(lengths, NUM_BINS))
    return [_length_bin(known, lengths, bins == number) for number in bins.unique()]


def _length_bin(
    known: Sequence[Judged], lengths: torch.Tensor, inside: torch.Tensor
) -> AccuracyAtLength:
    part = list(compress(known, inside.tolist()))
    estimate = clustered(
        [float(one.correct) for one in part], [cluster_of(one.problem) for one in part]
    )
    return AccuracyAtLength(
        least=int(lengths[inside].min()),
        most=int(lengths[inside].max()),
        mean_length=float(lengths[inside].double().mean()),
        num_responses=len(part),
        mean=estimate.mean,
        low=estimate.low,
        high=estimate.high,
    )


def _tokens_per_correct(judged: Sequence[Judged]) -> RatioEstimate | None:
    """Return the tokens of the judged responses over the right ones among them, of those whose
    length is known; None if none is right."""
    known = [one for one in judged if one.verdict.scored and one.response.length_tokens is not None]
    if not any(one.correct for one in known):
        return None
    return ratio(
        lengths_of(known, lambda one: True),
        [float(one.correct) for one in known],
        [cluster_of(one.problem) for one in known],
    )


def _categories(questions: JudgedQuestions) -> dict[str, dict[str, IntervalEstimate]]:
    """Return accuracy by category and value, in the order of the values' names."""
    groups: dict[str, dict[str, list[Sequence[Judged]]]] = {}
    for samples in questions:
        for category, value in categories_of(samples[0].problem).items():
            groups.setdefault(category, {}).setdefault(value, []).append(samples)
    return {
        category: {value: _mean(parts[value]) for value in sorted(parts, key=_natural)}
        for category, parts in sorted(groups.items())
    }


def _natural(text: str) -> tuple[bool, float, str]:
    """Return a sort key that puts 2 before 10, and numbers before words."""
    return (not text.isdecimal(), float(text) if text.isdecimal() else 0.0, text)


def _blind(scored: Sequence[Judged], blind: Sequence[Judged]) -> BlindResult | None:
    without = {samples[0].problem.uid: samples for samples in _by_question(_scored(blind))}
    both = [samples for samples in _by_question(scored) if samples[0].problem.uid in without]
    if not both:
        return None
    controls = [without[samples[0].problem.uid] for samples in both]
    added = paired(_shares(controls), _shares(both), _clusters(both))
    return BlindResult(_mean(controls), added)
