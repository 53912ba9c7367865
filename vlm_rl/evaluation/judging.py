"""Both rulings on every response: our verifier's verdict and the benchmark's own rule."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from vlm_rl.evaluation.benchmarks.benchmark import Judged, QuestionSet, Response, Ruling
from vlm_rl.records import Problem, Verdict
from vlm_rl.rewards.accuracy import Accuracy, gold_of
from vlm_rl.verification.notation import normalise
from vlm_rl.verification.pool import Reading


def judge(
    benchmark: QuestionSet,
    problems: Sequence[Problem],
    groups: Sequence[Sequence[Response]],
    accuracy: Accuracy,
) -> list[Judged]:
    """Judge `groups` [P][k], in their order. A problem that could not be asked is unsolved."""
    readings = accuracy.read(problems, [[response.text for response in group] for group in groups])
    classes = _answer_classes(problems, readings, accuracy)
    return [
        Judged(
            problem=problem,
            response=response,
            answer=reading.answer,
            verdict=reading.verdict if response.refused is None else Verdict.UNPARSABLE,
            rule=reading.rule if response.refused is None else f"not asked: {response.refused}",
            answer_class=answer_class,
            official=_official(benchmark, problem, response),
        )
        for problem, group, row, classes_of in zip(problems, groups, readings, classes, strict=True)
        for response, reading, answer_class in zip(group, row, classes_of, strict=True)
    ]


def _official(benchmark: QuestionSet, problem: Problem, response: Response) -> Ruling | None:
    if response.extraction is not None:
        ruling = benchmark.official_of_extraction(problem, response.extraction)
        if ruling is not None:
            return ruling
    return benchmark.official(problem, response.text)


def _answer_classes(
    problems: Sequence[Problem], readings: Sequence[Sequence[Reading]], accuracy: Accuracy
) -> list[list[int | None]]:
    """Give each different answer of a problem a number [P][k].

    Right answers are one class. The others are compared with each other, as if the earlier one were
    the gold.
    """
    classes: list[list[int | None]] = [[None] * len(row) for row in readings]
    unknown = []  # per problem: its answers without a class so far, by their spelling
    for row, numbers in zip(readings, classes, strict=True):
        spelled: dict[str, list[int]] = {}
        for index, reading in enumerate(row):
            if reading.verdict is Verdict.CORRECT:
                numbers[index] = 0
            elif reading.answer is not None:
                spelled.setdefault(normalise(reading.answer), []).append(index)
        unknown.append(spelled)
    for number in _until_all_are_known(unknown):
        questions = []
        for problem, spelled in zip(problems, unknown, strict=True):
            first, *others = spelled or [""]
            gold = replace(gold_of(problem), answer=first)
            questions.append([(gold, other) for other in others])
        asked = [question for row in questions for question in row]
        equal = iter(accuracy.pool.check(asked))
        for spelled, pairs, numbers in zip(unknown, questions, classes, strict=True):
            same = [other for _, other in pairs if next(equal).verdict is Verdict.CORRECT]
            for spelling in [*list(spelled)[:1], *same]:
                for index in spelled.pop(spelling):
                    numbers[index] = number
    return classes


def _until_all_are_known(unknown: Sequence[dict[str, list[int]]]) -> Iterator[int]:
    number = 1  # right answers are class 0
    while any(unknown):
        yield number
        number += 1
