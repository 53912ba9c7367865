"""How long are the answers of a policy, of which problems, and where does the length go?

Lengths are tokens as the engine counts them; a response without a known length is in no figure of
tokens. What stands before `</think>` is thinking, and so is thinking that never ends; the rest is
the answer. A response that was never asked is left out.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vlm_rl.evaluation.benchmarks.benchmark import Judged, Response, categories_of, cluster_of
from vlm_rl.evaluation.intervals import IntervalEstimate, clustered
from vlm_rl.evaluation.summary import Evaluation
from vlm_rl.metrics.length_spread import LengthSpread, spread_of
from vlm_rl.metrics.repetition import loops, pieces, repeated_share
from vlm_rl.metrics.verbosity import yap_index, yap_score
from vlm_rl.metrics.word_targets import TARGET_WORDS, WORD_TARGETS, count_words, hits
from vlm_rl.records import END_OF_THINKING, THINK

BASELINE = "baseline"
"""The column of own rows with the shortest answer that is enough, for the YapScore."""
NGRAM = 4
ANY = "all"


@dataclass(frozen=True)
class ProblemLengths:
    """The answers to one problem: a line of lengths.jsonl.

    `right_frac` is over those that could be checked, None without any; `truncated` and `looping`
    are counts.
    """

    uid: str
    spread: LengthSpread
    right_frac: float | None
    truncated: int
    looping: int

    @property
    def loops_in_part(self) -> bool:
        return 0 < self.looping < self.spread.num_samples


@dataclass(frozen=True)
class LengthCell:
    """Tokens of the responses of one verdict to the problems of one difficulty and source."""

    source: str
    difficulty: str
    verdict: str
    num_responses: int
    num_truncated: int
    mean: float
    median: float
    p90: float


@dataclass(frozen=True)
class LengthParts:
    """Where the length of responses goes.

    Tokens are means over the `num_known` whose thinking can be counted, None without any. All else
    is over all `num_responses`: characters, the share of the characters that are thinking, and the
    shares of 4-grams of words and signs that stand in the same part before.
    """

    num_responses: int
    num_thinking: int
    num_unfinished: int
    num_known: int
    thinking_tokens: float | None
    answer_tokens: float | None
    thinking_chars: float
    answer_chars: float
    thinking_frac: float
    repeated_in_thinking: float
    repeated_in_answer: float
    repeated_frac: float
    looping_frac: float


@dataclass(frozen=True)
class Verbosity:
    """YapBench's measures over the responses to rows with a baseline: characters of the answer
    beyond it, the median by category and the mean of these."""

    num_responses: int
    median: Mapping[str, float]
    index: float


@dataclass(frozen=True)
class TargetMatch:
    """Ruler's matches of one target, of one level or of all, as shares with their intervals.

    `precise` and `flexible` count all words, as published; `*_after` count those after the
    thinking, None if no response thinks.
    """

    name: str
    num_responses: int
    mean_words: float
    precise: IntervalEstimate
    flexible: IntervalEstimate
    precise_after: IntervalEstimate | None
    flexible_after: IntervalEstimate | None


@dataclass(frozen=True)
class LengthMeasures:
    """All that lengths.md says about one benchmark. `by_share` says whether difficulty is measured,
    by the share of right answers, or that of the rows."""

    benchmark: str
    num_responses: int
    num_unknown: int
    problems: tuple[ProblemLengths, ...]
    cells: tuple[LengthCell, ...]
    by_share: bool
    parts: Mapping[str, LengthParts]
    verbosity: Verbosity | None
    targets: tuple[TargetMatch, ...]
    accuracy_with_target: IntervalEstimate | None

    @classmethod
    def of(cls, evaluation: Evaluation, targeted: Sequence[Judged] = ()) -> "LengthMeasures":
        """Measure the responses of an evaluation, and those to the same questions with a target."""
        judged = [one for one in evaluation.judged if one.response.refused is None]
        asked = [one for one in targeted if one.response.refused is None]
        by_share = len(judged) > len({one.problem.uid for one in judged})
        return cls(
            benchmark=evaluation.benchmark,
            num_responses=len(judged),
            num_unknown=sum(one.response.length_tokens is None for one in judged),
            problems=tuple(_problems(judged)),
            cells=tuple(_cells(judged, by_share)),
            by_share=by_share,
            parts=_parts_by_verdict(judged),
            verbosity=_verbosity(judged),
            targets=tuple(_matches(asked)),
            accuracy_with_target=_accuracy(asked),
        )

    def plain(self) -> dict[str, Any]:
        """Return what lengths.json has; problems are lines of a file of their own."""
        return {**asdict(self), "problems": len(self.problems)}


def length_metrics(measures: LengthMeasures) -> dict[str, float]:
    """Return `eval/<benchmark>/lengths/...`, without what is unknown."""
    deviations = [one.spread.std for one in measures.problems if one.spread.std is not None]
    parts = measures.parts.get(ANY)
    whole = next((one for one in measures.targets if one.name == ANY), None)
    values: dict[str, Any] = {
        "within_problem_std_tokens": float(np.mean(deviations)) if deviations else None,
        "thinking_tokens": parts and parts.thinking_tokens,
        "answer_tokens": parts and parts.answer_tokens,
        "thinking_frac": parts and parts.thinking_frac,
        "repeated_frac": parts and parts.repeated_frac,
        "looping_frac": parts and parts.looping_frac,
        "yap_index": measures.verbosity and measures.verbosity.index,
        "precise_match_frac": whole and whole.precise.mean,
        "flexible_match_frac": whole and whole.flexible.mean,
    }
    prefix = f"eval/{measures.benchmark}/lengths"
    return {f"{prefix}/{name}": value for name, value in values.items() if value is not None}


def in_parts(text: str) -> tuple[str, str]:
    """Return the thinking and the answer in a response."""
    before, closed, after = text.partition(END_OF_THINKING)
    if closed:
        return before.removeprefix(THINK), after
    head, _, unfinished = text.partition(THINK)
    return unfinished, head


def tokens_in_parts(response: Response) -> tuple[int, int] | None:
    """Return the tokens of thinking and of answer; None if they cannot be told apart."""
    length, thinking = response.length_tokens, response.thinking_tokens
    if length is None or (thinking is None and END_OF_THINKING in response.text):
        return None
    if thinking is None:
        thinking = length if THINK in response.text else 0
    return thinking, length - thinking


def _by_uid(judged: Sequence[Judged]) -> list[list[Judged]]:
    groups: dict[str, list[Judged]] = {}
    for one in judged:
        groups.setdefault(one.problem.uid, []).append(one)
    return list(groups.values())


def _known(judged: Sequence[Judged]) -> list[tuple[Judged, int]]:
    lengths = [(one, one.response.length_tokens) for one in judged]
    return [(one, length) for one, length in lengths if length is not None]


def _right_frac(samples: Sequence[Judged]) -> float | None:
    scored = [one.correct for one in samples if one.verdict.scored]
    return float(np.mean(scored)) if scored else None


def _problems(judged: Sequence[Judged]) -> list[ProblemLengths]:
    return [
        ProblemLengths(
            uid=samples[0].problem.uid,
            spread=spread_of([length for _, length in known]),
            right_frac=_right_frac(samples),
            truncated=sum(bool(one.response.truncated) for one, _ in known),
            looping=sum(loops(one.response.text) for one, _ in known),
        )
        for samples in _by_uid(judged)
        if (known := _known(samples))
    ]


def difficulty_of(samples: Sequence[Judged], by_share: bool) -> str:
    """Return easy, medium or hard, as LASER-D cuts the share of right answers at 2/3 and 1/3; of
    single samples what the row says of its difficulty or level, - if that is nothing."""
    if not by_share:
        said = categories_of(samples[0].problem)
        return said.get("difficulty", said.get("level", "-"))
    share = _right_frac(samples)
    if share is None:
        return "-"
    return "easy" if share >= 2 / 3 else "medium" if share >= 1 / 3 else "hard"


def _cells(judged: Sequence[Judged], by_share: bool) -> list[LengthCell]:
    found: dict[tuple[str, str, str], list[tuple[Judged, int]]] = {}
    for samples in _by_uid(judged):
        difficulty = difficulty_of(samples, by_share)
        source = categories_of(samples[0].problem).get("source", ANY)
        for one, length in _known(samples):
            key = (source, difficulty, one.verdict.value)
            found.setdefault(key, []).append((one, length))
    return [
        LengthCell(
            *key,
            num_responses=len(cell),
            num_truncated=sum(bool(one.response.truncated) for one, _ in cell),
            mean=float(np.mean([length for _, length in cell])),
            median=float(np.median([length for _, length in cell])),
            p90=float(np.percentile([length for _, length in cell], 90)),
        )
        for key, cell in sorted(found.items())
    ]


def _parts_by_verdict(judged: Sequence[Judged]) -> dict[str, LengthParts]:
    kinds: dict[str, Callable[[Judged], bool]] = {
        ANY: lambda one: True,
        "correct": lambda one: one.correct,
        "wrong": lambda one: one.verdict.scored and not one.correct,
    }
    chosen = {kind: [one for one in judged if keep(one)] for kind, keep in kinds.items()}
    return {
        kind: _parts([one.response for one in these]) for kind, these in chosen.items() if these
    }


def _parts(responses: Sequence[Response]) -> LengthParts:
    texts = [in_parts(response.text) for response in responses]
    counted = [pair for response in responses if (pair := tokens_in_parts(response)) is not None]
    chars = np.array([[len(thinking), len(answer)] for thinking, answer in texts], np.float64)
    total = chars.sum(1)
    shares = np.divide(chars[:, 0], total, out=np.zeros_like(total), where=total > 0)
    return LengthParts(
        num_responses=len(responses),
        num_thinking=sum(bool(thinking) for thinking, _ in texts),
        num_unfinished=sum(
            THINK in response.text and END_OF_THINKING not in response.text
            for response in responses
        ),
        num_known=len(counted),
        thinking_tokens=float(np.mean([pair[0] for pair in counted])) if counted else None,
        answer_tokens=float(np.mean([pair[1] for pair in counted])) if counted else None,
        thinking_chars=float(chars[:, 0].mean()),
        answer_chars=float(chars[:, 1].mean()),
        thinking_frac=float(shares.mean()),
        repeated_in_thinking=_repeated([thinking for thinking, _ in texts]),
        repeated_in_answer=_repeated([answer for _, answer in texts]),
        repeated_frac=_repeated([response.text for response in responses]),
        looping_frac=float(np.mean([loops(response.text) for response in responses])),
    )


def _repeated(texts: Sequence[str]) -> float:
    return float(np.mean([repeated_share(pieces(text), NGRAM) for text in texts]))


def _verbosity(judged: Sequence[Judged]) -> Verbosity | None:
    scores: dict[str, list[int]] = {}
    for one in judged:
        baseline = one.problem.meta.get(BASELINE)
        if isinstance(baseline, str):
            category = categories_of(one.problem).get("category", ANY)
            answer = in_parts(one.response.text)[1].strip()
            scores.setdefault(category, []).append(yap_score(answer, baseline.strip()))
    if not scores:
        return None
    medians = {category: float(np.median(of_one)) for category, of_one in sorted(scores.items())}
    return Verbosity(sum(map(len, scores.values())), medians, yap_index(scores))


def _matches(asked: Sequence[Judged]) -> list[TargetMatch]:
    """Return the matches of each target that was asked for, of each level, and of all."""
    targets = Counter(int(one.problem.meta[TARGET_WORDS]) for one in asked)
    groups = {str(words): {words} for words in sorted(targets)}
    levels = {words: WORD_TARGETS[words].level for words in targets}
    for level in sorted({*levels.values()}):
        groups[f"level {level}"] = {words for words in targets if levels[words] == level}
    if targets:
        groups[ANY] = {*targets}
    return [
        _match(name, [one for one in asked if one.problem.meta[TARGET_WORDS] in words])
        for name, words in groups.items()
    ]


def _match(name: str, asked: Sequence[Judged]) -> TargetMatch:
    texts = [one.response.text for one in asked]
    after = [in_parts(text)[1] for text in texts]
    thinks = any(in_parts(text)[0] for text in texts)
    precise, flexible = _hit_shares(asked, texts)
    precise_after, flexible_after = _hit_shares(asked, after)
    return TargetMatch(
        name=name,
        num_responses=len(asked),
        mean_words=float(np.mean([count_words(text) for text in texts])),
        precise=precise,
        flexible=flexible,
        precise_after=precise_after if thinks else None,
        flexible_after=flexible_after if thinks else None,
    )


def _hit_shares(
    asked: Sequence[Judged], texts: Sequence[str]
) -> tuple[IntervalEstimate, IntervalEstimate]:
    """Return the shares of precise and flexible matches, over responses, by cluster."""
    matched = [
        hits(count_words(text), int(one.problem.meta[TARGET_WORDS]))
        for one, text in zip(asked, texts, strict=True)
    ]
    clusters = [cluster_of(one.problem) for one in asked]
    precise, flexible = (
        clustered([float(both[which]) for both in matched], clusters) for which in (0, 1)
    )
    return precise, flexible


def _accuracy(asked: Sequence[Judged]) -> IntervalEstimate | None:
    shares = [
        (share, cluster_of(samples[0].problem))
        for samples in _by_uid(asked)
        if (share := _right_frac(samples)) is not None
    ]
    return clustered(*zip(*shares, strict=True)) if shares else None
