"""The tasks of an evaluation: which problems, with which prompt, with images or blind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from vlm_rl.data.prompts import ANSWER_STYLE_OF, INSTRUCTIONS, TemplateArg
from vlm_rl.errors import nearest
from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.benchmark import Benchmark
from vlm_rl.evaluation.responders import Responder
from vlm_rl.evaluation.responses import GivenResponses, ResponseLog, read_responses
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

    def instruction(self, benchmark: Benchmark) -> str:
        return benchmark.instruction if self.style == "benchmark" else INSTRUCTIONS[self.style]

    def answer_style(self, benchmark: Benchmark) -> str:
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
    """One benchmark: its problems, and those of them that are also asked without images, if any.

    `without_response` counts the problems to which a file of responses has none.
    """

    benchmark: Benchmark
    split: str
    seen: ProblemSet
    blind: ProblemSet | None = None
    without_response: int = 0

    @property
    def name(self) -> str:
        return evaluation_name(self.benchmark, self.split)

    @property
    def problem_sets(self) -> list[ProblemSet]:
        return [self.seen, *([self.blind] if self.blind else [])]


def benchmark_and_split(name: str) -> tuple[Benchmark, str]:
    """Return the benchmark and split of `name[:split]`. Raises ValueError for an unknown one."""
    key, _, split = name.partition(":")
    if key not in BENCHMARKS:
        raise ValueError(
            f"benchmark={key} is none of {', '.join(BENCHMARKS)}{nearest(key, BENCHMARKS)}"
        )
    benchmark = BENCHMARKS[key]
    split = split or benchmark.splits[0]
    if split not in benchmark.splits:
        raise ValueError(
            f"{key} has the splits {', '.join(benchmark.splits)}; got {split!r}"
            f"{nearest(split, benchmark.splits)}"
        )
    return benchmark, split


def given_task(benchmark: Benchmark, split: str, problems: Sequence[Problem], path: Path) -> Task:
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
                    bar = progress.add_task(f"{task.name}{how}, batches", total=missing)
                    problems.responses.answer(responder(task), seed, partial(progress.advance, bar))


def without_images(problems: Sequence[Problem]) -> list[Problem]:
    """Return the same questions without images, leaving out those that never had any."""
    return [
        replace(problem, images=(), question=problem.question.replace(IMAGE_MARK, " ").strip())
        for problem in problems
        if problem.images
    ]


def evaluation_name(benchmark: Benchmark, split: str) -> str:
    """Return the name of an evaluation's folder and metrics."""
    return benchmark.name if split == benchmark.splits[0] else f"{benchmark.name}-{split}"
