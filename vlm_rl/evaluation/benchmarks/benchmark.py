"""What a benchmark is: rows in a published schema, a prompt, a rule, measures, published results.

There are two rulings on a response. The verdict is ours, by the verifier that also rewards
training. The official ruling is the benchmark's own: what its authors' code counts as right, chance
credit included. Where their code asks a model to extract the answer, a rule of ours reads it in the
model's place; that is a figure of another name, the accuracy by reading, and no guess counts in it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.records import Problem, Verdict


@dataclass(frozen=True)
class PublishedResult:
    """A number that somebody printed, in percent, and where; it is never compared silently."""

    model: str
    percent: float
    source: str
    measure: str = "accuracy"


@dataclass(frozen=True)
class Response:
    """The `sample`th answer to a problem, from a policy or from a file.

    `length_tokens` and `truncated` are None if they are unknown. `extraction` is the answer as
    somebody else has extracted it. `refused` says why the problem was never asked; the text is then
    empty. `thinking_tokens` are those up to and with the first `</think>`, None without one or if
    they are unknown.
    """

    uid: str
    sample: int
    text: str
    length_tokens: int | None = None
    truncated: bool | None = None
    extraction: object = None
    refused: str | None = None
    thinking_tokens: int | None = None


@dataclass(frozen=True)
class Ruling:
    """What the benchmark's own rule says. `answer` is what it cut out, None if there was none.

    `by_reading` says that our reading stands for the model that the authors let extract answers.
    """

    correct: bool
    answer: str | None
    rule: str
    by_reading: bool = False


@dataclass(frozen=True)
class TableSource:
    """Where one table of a benchmark is; `columns` are added to its rows."""

    source: str
    split: str | None
    config: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """A response with both rulings.

    `answer` is what our verifier read, None without an answer slot or with several; `rule` is the
    rule that decided. Answers of one problem that the verifier calls equal have the same
    `answer_class`, counted from 0; without an answer it is None.
    """

    problem: Problem
    response: Response
    answer: str | None
    verdict: Verdict
    rule: str
    answer_class: int | None
    official: Ruling | None

    @property
    def correct(self) -> bool:
        return self.verdict is Verdict.CORRECT


class QuestionSet:
    """Questions with a name, a prompt and a rule.

    A problem's `meta` holds `cluster`, the question that it is a version of (by default, itself);
    `categories`, by which accuracies are given, such as {"subject": "algebra"}; and `num_options`,
    the number of options to choose from: 0 for a free answer, None if it is unknown.
    """

    name: str
    """As in `--benchmark mathvision`."""
    hub_id: str
    """Where the questions come from by default."""
    splits: tuple[str, ...]
    """The first one is the default."""
    instruction: ClassVar[str]
    """What the authors' prompt asks for, after the question and its choices."""
    answer_style: ClassVar[str] = "box"
    """Where `instruction` puts the answer: box, tag or answer_line."""
    samples_per_problem: ClassVar[int] = 1
    """The number that is usual in reports; small benchmarks need many."""
    published: ClassVar[tuple[PublishedResult, ...]] = ()
    notes: ClassVar[str] = ""
    """What a reader of the results must know."""

    def official(self, problem: Problem, response: str) -> Ruling | None:
        """Apply the authors' rule to the text of a response, which is read by ours where they ask a
        model; None if only a judge could rule."""
        return None

    def official_of_extraction(self, problem: Problem, extraction: object) -> Ruling | None:
        """Apply the authors' rule to a stored answer that a judge model extracted; None if the
        benchmark has no such step."""
        return None

    def measures(self, judged: Sequence[Judged]) -> Mapping[str, float]:
        """Return measures of all questions beside accuracy, by name, as fractions."""
        return {}


class Benchmark(QuestionSet, ABC):
    """A published one; its file states what it reads and where each statement comes from."""

    columns: ClassVar[tuple[str, ...]]
    """The required ones; a table that lacks one is refused with its name."""
    sizes: ClassVar[Mapping[str, int]] = {}
    """Split -> number of published rows, if known: it reveals a file of another split."""
    aliases: ClassVar[Mapping[str, str]] = {}
    """Other published names of columns -> those in `columns`."""
    flawed_rows: ClassVar[int] = 0
    """How many published rows cannot be problems; more than these are an error."""

    def tables(self, source: str, split: str) -> Sequence[TableSource]:
        """Return the tables of a split, in a file, a folder or on the hub.

        In a folder, a file of the split's name comes first.
        """
        files = [Path(source, f"{split}{suffix}") for suffix in (".jsonl", ".json", ".parquet")]
        path = next((file for file in files if file.is_file()), source)
        return [TableSource(str(path), split)]

    def images(self, row: Mapping[str, Any]) -> Sequence[object]:
        """Return the images of a row as stored: bytes, {"bytes", "path"} or a path."""
        return [row["image"]]

    @abstractmethod
    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        """Return the problem of a row; raises BadRow for a row that cannot be one."""


def cluster_of(problem: Problem) -> str:
    """Return the question that a problem is a version of."""
    return str(problem.meta.get("cluster", problem.uid))


def num_options(problem: Problem) -> int | None:
    """Return the number of options to choose from: 0 for a free answer, None if unknown."""
    number = problem.meta.get("num_options", len(problem.choices or ()))
    return None if number is None else int(number)


def categories_of(problem: Problem) -> Mapping[str, str]:
    """Return what accuracies are broken down by, such as {"subject": "algebra", "level": "3"}."""
    return dict(problem.meta.get("categories", {}))
