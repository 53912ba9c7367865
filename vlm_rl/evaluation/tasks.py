"""The tasks of an evaluation: which problems, with which prompt, with images or blind."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from vlm_rl.data.prompts import ANSWER_STYLE_OF, INSTRUCTIONS, TemplateArg
from vlm_rl.errors import nearest
from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.benchmark import QuestionSet
from vlm_rl.evaluation.benchmarks.own_rows import RowSettings, is_own, own_rows
from vlm_rl.evaluation.responders import Responder
from vlm_rl.evaluation.responses import GivenResponses, ResponseLog, read_responses
from vlm_rl.metrics.word_targets import TARGET_WORDS, word_request
from vlm_rl.records import IMAGE_MARK, Problem
from vlm_rl.show.screen import bars


@dataclass(frozen=True)
class PromptSettings:
    """How a problem becomes a prompt.

    `style` benchmark asks as the benchmark's authors do. The other styles are those of training,
    for a policy that was trained with one. Pixels limit the area of an image; None keeps the
    checkpoint's own limits. `template_args` are values for variables of the chat template.
    """

    style: Literal["benchmark", "plain", "boxed_think", "think_answer", "answer_line"] = "benchmark"
    system: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_prompt_tokens: int = 8192
    template_args: dict[str, TemplateArg] | None = None

    def instruction(self, benchmark: QuestionSet) -> str:
        return benchmark.instruction if self.style == "benchmark" else INSTRUCTIONS[self.style]

    def answer_style(self, benchmark: QuestionSet) -> str:
        """Return where a response to `instruction` puts its answer."""
        if self.style == "benchmark" or self.style == "plain":
            return benchmark.answer_style
        return ANSWER_STYLE_OF[self.style]


@dataclass(frozen=True)
class ProblemSet:
    """Problems, and the responses to them so far."""

    problems: Sequence[Problem]
    responses: ResponseLog | GivenResponses


@dataclass(frozen=True)
class Task:
    """One benchmark: its problems, and what is also asked of them: `blind`, without their images.

    `targeted` asks them again, each with a number of words to aim at. `without_response` counts the
    problems to which a file of responses has none.
    """

    benchmark: QuestionSet
    split: str
    seen: ProblemSet
    blind: ProblemSet | None = None
    targeted: ProblemSet | None = None
    without_response: int = 0

    @property
    def name(self) -> str:
        return evaluation_name(self.benchmark, self.split)

    @property
    def problem_sets(self) -> list[ProblemSet]:
        return [self.seen, *(each for each in (self.blind, self.targeted) if each is not None)]


def benchmark_and_split(name: str, rows: RowSettings | None = None) -> tuple[QuestionSet, str]:
    """Return the benchmark and split of `name[:split]`, or the user's own rows at a path, read as
    `rows` says. Raises ValueError for an unknown benchmark, and for own rows of its name."""
    key, _, split = name.partition(":")
    if key not in BENCHMARKS and is_own(name):
        own = own_rows(name, rows or RowSettings())
        if own.name in BENCHMARKS:
            raise ValueError(
                f"benchmark={name} would have the name of the benchmark {own.name}; rename the file"
            )
        return own, own.splits[0]
    if key not in BENCHMARKS:
        raise ValueError(
            f"benchmark={key} is none of {', '.join(BENCHMARKS)}, nor a file of rows"
            f"{nearest(key, BENCHMARKS)}"
        )
    benchmark = BENCHMARKS[key]
    split = split or benchmark.splits[0]
    if split not in benchmark.splits:
        raise ValueError(
            f"{key} has the splits {', '.join(benchmark.splits)}; got {split!r}"
            f"{nearest(split, benchmark.splits)}"
        )
    return benchmark, split


def given_task(benchmark: QuestionSet, split: str, problems: Sequence[Problem], path: Path) -> Task:
    """Return the task of the problems to which the file at `path` has responses."""
    responses = read_responses(path, problems)
    answered = [problem for problem in problems if problem.uid in responses]
    given = GivenResponses([responses[problem.uid] for problem in answered])
    without_response = len(problems) - len(answered)
    return Task(benchmark, split, ProblemSet(answered, given), without_response=without_response)


def answer(tasks: Sequence[Task], responder: Callable[[Task], Responder], seed: int) -> None:
    """Have every missing response of `tasks` answered, with a progress bar each."""
    with bars() as progress:
        for task in tasks:
            for problems in task.problem_sets:
                missing = len(problems.responses.missing)
                if missing:
                    assert isinstance(problems.responses, ResponseLog)
                    how = " without images" if problems is task.blind else ""
                    how = " with a length" if problems is task.targeted else how
                    bar = progress.add_task(f"{task.name}{how}, batches", total=missing)
                    problems.responses.answer(responder(task), seed, partial(progress.advance, bar))


def without_images(problems: Sequence[Problem]) -> list[Problem]:
    """Return the same questions without images, leaving out those that never had any."""
    return [
        replace(problem, images=(), question=problem.question.replace(IMAGE_MARK, " ").strip())
        for problem in problems
        if problem.images
    ]


def with_target_words(
    problems: Sequence[Problem], targets: Sequence[int], seed: int
) -> list[Problem]:
    """Return the same questions, each with one of `targets` to aim at; none without targets.

    A target is drawn uniformly for each problem, as Ruler does, and is a function of seed and uid.
    It stands in `meta`, and in the question in Ruler's words.
    """
    if not targets:
        return []
    asked = []
    for problem in problems:
        words = random.Random(f"{seed} {problem.uid}").choice(targets)
        question = f"{problem.question}\n{word_request(words)}"
        asked.append(
            replace(problem, question=question, meta={**problem.meta, TARGET_WORDS: words})
        )
    return asked


def evaluation_name(benchmark: QuestionSet, split: str) -> str:
    """Return the name of an evaluation's folder and metrics."""
    return benchmark.name if split == benchmark.splits[0] else f"{benchmark.name}-{split}"
