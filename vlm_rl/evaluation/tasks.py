"""The parts of an evaluation: which problems, put how, with their pictures or blind."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vlm_rl.data.prompts import ANSWER_STYLE_OF, INSTRUCTIONS
from vlm_rl.errors import nearest
from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.benchmark import Benchmark
from vlm_rl.evaluation.responses import Brought, Gathered
from vlm_rl.records import IMAGE_MARK, Problem


@dataclass(frozen=True)
class PromptSettings:
    """How a problem is put. `style` benchmark: with the request of the benchmark's authors; the
    others are those of training, for a policy that was trained with one. Pixels are of area; None
    for the checkpoint's own."""

    style: Literal["benchmark", "plain", "boxed_think", "think_answer", "answer_line"] = "benchmark"
    system: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_prompt_tokens: int = 8192

    def instruction(self, benchmark: Benchmark) -> str:
        return benchmark.instruction if self.style == "benchmark" else INSTRUCTIONS[self.style]

    def answer_style(self, benchmark: Benchmark) -> str:
        """Where the answer stands in what `instruction` asks for."""
        if self.style == "benchmark" or self.style == "plain":
            return benchmark.answer_style
        return ANSWER_STYLE_OF[self.style]


@dataclass(frozen=True)
class Questions:
    """Problems, and the responses to them as far as there are any."""

    problems: Sequence[Problem]
    responses: Gathered | Brought


@dataclass(frozen=True)
class Task:
    """One benchmark: asked with its pictures, and without them where that was wanted.

    `without_response` counts the problems for which a file of responses has none.
    """

    benchmark: Benchmark
    split: str
    seen: Questions
    blind: Questions | None = None
    without_response: int = 0

    @property
    def name(self) -> str:
        return label(self.benchmark, self.split)

    @property
    def asked(self) -> list[Questions]:
        return [self.seen, *([self.blind] if self.blind else [])]


def named(name: str) -> tuple[Benchmark, str]:
    """The benchmark and split of `name[:split]`. Raises ValueError for one that is not there."""
    key, _, split = name.partition(":")
    if key not in BENCHMARKS:
        raise ValueError(
            f"benchmark {key!r} is none of {', '.join(BENCHMARKS)}{nearest(key, BENCHMARKS)}"
        )
    benchmark = BENCHMARKS[key]
    split = split or benchmark.splits[0]
    if split not in benchmark.splits:
        raise ValueError(
            f"{key} has the splits {', '.join(benchmark.splits)}; got {split!r}"
            f"{nearest(split, benchmark.splits)}"
        )
    return benchmark, split


def blind(problems: Sequence[Problem]) -> list[Problem]:
    """The same questions without their pictures, of those that have any."""
    return [
        replace(problem, images=(), question=problem.question.replace(IMAGE_MARK, " ").strip())
        for problem in problems
        if problem.images
    ]


def label(benchmark: Benchmark, split: str) -> str:
    """What an evaluation's folder and figures are called."""
    return benchmark.name if split == benchmark.splits[0] else f"{benchmark.name}-{split}"
