"""The result of one benchmark: a record that every report, plot and curve of it reads.

Field names and their order are the layout of report.json. Fractions are in [0, 1], lengths in
tokens; None stands for what is unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlm_rl.evaluation.benchmarks.benchmark import PublishedResult
from vlm_rl.evaluation.intervals import Difference, IntervalEstimate, RatioEstimate


@dataclass(frozen=True)
class SampleCounts:
    """The fewest and the most samples of a question."""

    least: int
    most: int


@dataclass(frozen=True)
class Excluded:
    """Responses that the checker could not judge, and questions that lost all of theirs."""

    timeout: int
    error: int
    questions_without_verdict: int

    @property
    def num_responses(self) -> int:
        return self.timeout + self.error


@dataclass(frozen=True)
class OfficialResult:
    """The authors' rule and ours on the same responses.

    `accuracy` is by the authors' rule, or by it after our own reading of the answer, over all
    `num_responses` that have a ruling. `strict` is ours, over those of them that our verifier could
    judge.
    """

    accuracy: IntervalEstimate | None
    strict: IntervalEstimate | None
    num_responses: int
    no_ruling: int
    right_by_official_only: int
    right_by_strict_only: int


@dataclass(frozen=True)
class ExtractionFailures:
    """`no_answer` counts responses with no answer slot, or several; `unparsable` those whose answer
    cannot be read. `frac` is the share of both among the judged responses."""

    no_answer: int
    unparsable: int
    frac: float | None


@dataclass(frozen=True)
class Truncation:
    """The share of truncated responses among the `num_known` that say whether they are."""

    frac: float
    num_known: int


@dataclass(frozen=True)
class LengthDistribution:
    """Mean and quantiles of the known lengths."""

    num_responses: int
    mean: float
    p10: float
    median: float
    p90: float
    p99: float


@dataclass(frozen=True)
class LengthsByVerdict:
    all: LengthDistribution
    correct: LengthDistribution | None
    wrong: LengthDistribution | None


@dataclass(frozen=True)
class AccuracyAtLength:
    """Accuracy, with its 95 % interval, of the responses of `least` to `most` tokens."""

    least: int
    most: int
    mean_length: float
    num_responses: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class BlindResult:
    """Accuracy without images, and what the images add, over the questions judged both ways."""

    accuracy: IntervalEstimate
    images_add: Difference


@dataclass(frozen=True)
class BenchmarkResult:
    """All that the report of an evaluation says about one benchmark.

    `num_published` is the size of the split as its authors published it. `chance` is what guessing
    among the options would get, over the `num_chance_questions` whose number of options is known.
    `pass_at_k` and `maj_at_k` go by k, `refused` and `skipped` by reason, `categories` by category
    and value. The bins of `accuracy_by_length` go from short to long. `tokens_per_correct` is the
    number of tokens of right and wrong answers, over the number of right ones.
    """

    benchmark: str
    split: str
    source: str
    model: str
    num_questions: int
    num_published: int | None
    num_clusters: int
    num_responses: int
    samples_per_question: SampleCounts
    excluded: Excluded
    refused: Mapping[str, int]
    accuracy: IntervalEstimate | None
    chance: float | None
    num_chance_questions: int
    pass_at_k: Mapping[int, IntervalEstimate]
    maj_at_k: Mapping[int, IntervalEstimate]
    official: OfficialResult | None
    reading: OfficialResult | None
    extraction: ExtractionFailures
    truncated: Truncation | None
    length_tokens: LengthsByVerdict | None
    accuracy_by_length: Sequence[AccuracyAtLength]
    tokens_per_correct: RatioEstimate | None
    categories: Mapping[str, Mapping[str, IntervalEstimate]]
    blind: BlindResult | None
    measures: Mapping[str, float]
    published: Sequence[PublishedResult]
    skipped: Mapping[str, int]
    settings: Mapping[str, Any]
    notes: str

    @property
    def is_partial(self) -> bool:
        """Whether fewer problems were asked than the split has."""
        return self.num_published not in (None, self.num_questions)

    @property
    def official_accuracy(self) -> IntervalEstimate | None:
        return self.official.accuracy if self.official else None

    @property
    def reading_accuracy(self) -> IntervalEstimate | None:
        return self.reading.accuracy if self.reading else None

    @property
    def blind_accuracy(self) -> IntervalEstimate | None:
        return self.blind.accuracy if self.blind else None

    @property
    def truncated_frac(self) -> float | None:
        return self.truncated.frac if self.truncated else None

    @property
    def mean_length(self) -> float | None:
        return self.length_tokens.all.mean if self.length_tokens else None


def metrics(result: BenchmarkResult) -> dict[str, float]:
    """Return what makes curves, by names such as `eval/mathvision/accuracy`, without unknowns."""
    values: dict[str, float | None] = {}
    for name, estimate in _estimates(result).items():
        if estimate is not None:
            ends = {f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            values |= {name: estimate.mean, **ends}
    if lengths := result.length_tokens:
        values["length_tokens"] = lengths.all.mean
        values["length_correct_tokens"] = lengths.correct.mean if lengths.correct else None
        values["length_wrong_tokens"] = lengths.wrong.mean if lengths.wrong else None
    assert not values.keys() & result.measures.keys(), "a measure must not hide another metric"
    values |= {
        "tokens_per_correct": per_right.value if (per_right := result.tokens_per_correct) else None,
        "extraction_failure_frac": result.extraction.frac,
        "truncated_frac": result.truncated_frac,
        "excluded_frac": result.excluded.num_responses / result.num_responses,
        **result.measures,
    }
    prefix = f"eval/{result.benchmark}"
    return {f"{prefix}/{name}": float(v) for name, v in values.items() if v is not None}


def _estimates(result: BenchmarkResult) -> dict[str, IntervalEstimate | None]:
    return {
        "accuracy": result.accuracy,
        "official_accuracy": result.official_accuracy,
        "reading_accuracy": result.reading_accuracy,
        "blind_accuracy": result.blind_accuracy,
        **{f"pass_at_{k}": estimate for k, estimate in result.pass_at_k.items()},
        **{f"maj_at_{k}": estimate for k, estimate in result.maj_at_k.items()},
    }
