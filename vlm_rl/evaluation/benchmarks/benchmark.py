"""What a benchmark is: rows in a published schema, a prompt, a rule, measures, published figures.

Two rulings stand beside each other. The verdict is ours, by the verifier that also rewards
training. The official ruling is the benchmark's own: what its authors' code counts as right, as far
as a rule says it and without a judge model or a random guess.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.records import Problem, Verdict


@dataclass(frozen=True)
class Published:
    """A figure that somebody printed, in percent, with where; it is never compared silently."""

    model: str
    percent: float
    source: str
    measure: str = "accuracy"


@dataclass(frozen=True)
class Response:
    """The `sample`th answer to a problem, from a policy or from a file.

    `length_tokens` and `truncated` are None where whoever made it did not say. `extraction` is the
    answer as somebody else has cut it out already. `refused` says why the problem was never asked;
    the text is then empty.
    """

    uid: str
    sample: int
    text: str
    length_tokens: int | None = None
    truncated: bool | None = None
    extraction: object = None
    refused: str | None = None


@dataclass(frozen=True)
class Ruling:
    """What the benchmark's own rule says. `answer` is what it cut out, None where it found none."""

    correct: bool
    answer: str | None
    rule: str


@dataclass(frozen=True)
class Part:
    """One table of a benchmark that is stored in several; `columns` are added to its rows."""

    source: str
    split: str | None
    config: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """A response with both rulings. `answer` is what our verifier read, None where there was no
    answer slot or several; `rule` is the rule of it that decided. Answers of one problem that the
    verifier calls equal have the same `answer_class`, counted from 0; without an answer it is None.
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


class Benchmark(ABC):
    """One benchmark; its file states what it reads and where each statement comes from.

    A problem's `meta` holds `cluster`, the question that it is a version of (by default it alone),
    and `categories`, by which accuracies are given, such as {"subject": "algebra"}; `num_options`,
    among how many options the answer is, 0 for a free one and None where that can not be told.
    """

    name: ClassVar[str]
    """As in `--benchmarks mathvision`."""
    hub_id: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]
    """The first one is the default."""
    columns: ClassVar[tuple[str, ...]]
    """Those that must be there; a table without one of them is refused by its name."""
    sizes: ClassVar[Mapping[str, int]] = {}
    """Split -> number of published rows, where it is known: it tells a file of another split."""
    aliases: ClassVar[Mapping[str, str]] = {}
    """Other published names of columns -> those in `columns`."""
    flawed_rows: ClassVar[int] = 0
    """How many published rows can not be problems; more than these are an error."""
    instruction: ClassVar[str]
    """What the authors' prompt asks for, after the question and its choices."""
    answer_style: ClassVar[str] = "box"
    """Where `instruction` puts the answer: box, tag or answer_line."""
    samples_per_problem: ClassVar[int] = 1
    """How many are usual in reports; small benchmarks need many."""
    published: ClassVar[tuple[Published, ...]] = ()
    notes: ClassVar[str] = ""
    """What a reader of the figures must know."""

    def parts(self, source: str, split: str) -> Sequence[Part]:
        """The tables that a split consists of, in a file, in a folder (a file of the split's name
        first) or on the hub."""
        files = [Path(source, f"{split}{suffix}") for suffix in (".jsonl", ".json", ".parquet")]
        return [Part(str(next((file for file in files if file.is_file()), source)), split)]

    def images(self, row: Mapping[str, Any]) -> Sequence[object]:
        """The pictures of a row as stored: bytes, {"bytes", "path"} or a path."""
        return [row["image"]]

    @abstractmethod
    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        """The problem of a row; raises BadRow for a row that can not be one."""

    def official(self, problem: Problem, response: str) -> Ruling | None:
        """The authors' rule on the text of a response, None where only a judge could say."""
        return None

    def official_of_extraction(self, problem: Problem, extraction: object) -> Ruling | None:
        """The authors' rule on an answer that a judge model cut out and somebody stored, None where
        the benchmark has no such step."""
        return None

    def measures(self, judged: Sequence[Judged]) -> Mapping[str, float]:
        """Figures of the benchmark as a whole beside accuracy, by name, as fractions."""
        return {}


def cluster_of(problem: Problem) -> str:
    """The question that a problem is a version of."""
    return str(problem.meta.get("cluster", problem.uid))


def num_options(problem: Problem) -> int | None:
    """Among how many options the answer is: 0 for a free answer, None where that is not known."""
    found = problem.meta.get("num_options", len(problem.choices or ()))
    return None if found is None else int(found)


def categories_of(problem: Problem) -> Mapping[str, str]:
    """What accuracies are broken down by, such as {"subject": "algebra", "level": "3"}."""
    return dict(problem.meta.get("categories", {}))
