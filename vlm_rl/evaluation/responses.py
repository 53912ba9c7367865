"""Responses on disk: logged batch by batch, so that a killed evaluation resumes, or made elsewhere.

A file that was made elsewhere has rows with `id` (or `pid`, `uid`) and `response`, and if known
`sample`, `length_tokens`, `truncated` and `extraction` (the answer as others extracted it). It is
JSON, by lines, as a list or as an object of rows by id. Several rows of one id without `sample` are
its samples in order. A response of null is an empty one: the model gave none.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlm_rl.data.json_rows import json_rows
from vlm_rl.disk.files import write_text
from vlm_rl.evaluation.benchmarks.benchmark import Response
from vlm_rl.evaluation.provenance import check_same_questions
from vlm_rl.evaluation.responders import Responder
from vlm_rl.records import Problem
from vlm_rl.rollout import EngineError
from vlm_rl.servers.chat_server import legal
from vlm_rl.show.json_text import json_text

_ID_NAMES = ("id", "pid", "uid")
_FIELDS: dict[str, type] = {
    "sample": int,
    "length_tokens": int,
    "truncated": bool,
    "extraction": object,
}


@dataclass(frozen=True)
class ProblemBatch:
    """Problems that are answered together: the random numbers depend on the whole batch."""

    number: int
    problems: tuple[Problem, ...]
    samples: int

    def seed(self, seed: int) -> int:
        entropy = np.random.SeedSequence([seed, self.number])
        return int(entropy.generate_state(1, np.uint64)[0] >> 1)


def batches_of(problems: Sequence[Problem], size: int, samples: int) -> list[ProblemBatch]:
    """Cut `problems` into batches of `size`, each problem to be answered `samples` times."""
    starts = range(0, len(problems), size)
    return [ProblemBatch(n, tuple(problems[i : i + size]), samples) for n, i in enumerate(starts)]


class ResponseLog:
    """The responses of one benchmark in `path`, a line each; only whole batches are kept.

    Responses of an earlier, stopped run are kept as they are: with the same weights and seed they
    would be the same.
    """

    def __init__(self, path: Path, batches: Sequence[ProblemBatch]) -> None:
        self._path = path
        self._batches = {batch.number: batch for batch in batches}
        self._responses: dict[int, list[Response]] = {}
        self._whole: list[str] | None = None
        if path.exists():
            self._read()

    @property
    def missing(self) -> list[ProblemBatch]:
        return [batch for number, batch in self._batches.items() if number not in self._responses]

    @property
    def groups(self) -> list[list[Response]]:
        """Responses [P][samples], in the order of the problems; needs every batch."""
        by_problem: dict[str, list[Response]] = defaultdict(list)
        for number in self._batches:
            for response in self._responses[number]:
                by_problem[response.uid].append(response)
        return list(by_problem.values())

    def answer(self, responder: Responder, seed: int, done: Callable[[], object]) -> None:
        """Have the missing batches answered; call `done` once each is on disk.

        Raises EngineError if no problem of the first batch can be asked: then the settings are
        wrong, and nothing was answered.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._drop_partial_batches()
        with self._path.open("a", encoding="utf-8") as lines:
            for batch in self.missing:
                groups = responder.respond(
                    batch.problems, samples=batch.samples, seed=batch.seed(seed)
                )
                responses = [response for group in groups for response in group]
                if not self._responses and all(response.refused for response in responses):
                    raise EngineError(f"no problem can be asked; the first: {responses[0].refused}")
                rows = ({"batch": batch.number} | asdict(response) for response in responses)
                lines.writelines(json_text(row) + "\n" for row in rows)
                lines.flush()
                self._responses[batch.number] = responses
                done()

    def _read(self) -> None:
        """Read the whole batches."""
        # not splitlines: a response may hold a separator such as U+2028, which does not end a line
        *lines, torn = self._path.read_text(encoding="utf-8", errors="replace").split("\n")
        kept: dict[int, list[str]] = defaultdict(list)
        for line in lines:
            row = _object(line)
            if row is not None and row.get("batch") in self._batches:
                kept[row["batch"]].append(line)
        for number, batch in self._batches.items():
            responses = [Response(**_without_batch(line)) for line in kept[number]]
            expected = [(p.uid, sample) for p in batch.problems for sample in range(batch.samples)]
            if [(r.uid, r.sample) for r in responses] == expected:
                self._responses[number] = responses
        whole = [line for number in self._responses for line in kept[number]]
        if torn or len(whole) < len(lines):
            self._whole = whole

    def _drop_partial_batches(self) -> None:
        """Rewrite the file if a kill has left part of a batch."""
        if self._whole is not None:
            write_text(self._path, "".join(line + "\n" for line in self._whole))
            self._whole = None


def read_responses(path: Path, problems: Sequence[Problem]) -> dict[str, list[Response]]:
    """Return responses made elsewhere, by uid; `id` is a problem's `meta` id or its uid.

    Raises ValueError with file and line for anything but a response, for an id that no problem has,
    if problems have different numbers of responses, and if the rows are about other questions.
    """
    if not path.is_file():
        raise ValueError(f"no responses file {path}")
    known = {p.uid: p for p in problems}
    known |= {str(p.meta["id"]): p for p in problems if "id" in p.meta}
    by_uid: dict[str, list[Response]] = defaultdict(list)
    pairs: list[tuple[Problem, Mapping[str, Any]]] = []
    for place, row in _rows(path):
        problem = known.get(str(row["id"]))
        if problem is None:
            example = problems[0].meta.get("id", problems[0].uid)
            raise ValueError(
                f"{place}: no problem of this benchmark and split has the id {row['id']!r} (one "
                f"that is there: {example!r}); name the split of the responses"
            )
        given = by_uid[problem.uid]
        values: dict[str, Any] = {"sample": len(given), "text": legal(row["response"] or "")}
        values |= {name: row[name] for name in _FIELDS if row.get(name) is not None}
        given.append(Response(uid=problem.uid, **values))
        pairs.append((problem, row))
    if not by_uid:
        raise ValueError(f"{path} holds no response")
    _check_samples(path, by_uid)
    check_same_questions(str(path), pairs)
    return {uid: sorted(responses, key=lambda r: r.sample) for uid, responses in by_uid.items()}


def _check_samples(path: Path, by_uid: Mapping[str, Sequence[Response]]) -> None:
    for uid, responses in by_uid.items():
        twice = [n for n, count in Counter(r.sample for r in responses).items() if count > 1]
        if twice:
            raise ValueError(f"{path}: {uid!r} has its sample {twice[0]} twice; remove one of them")
    numbers = Counter(map(len, by_uid.values()))
    if len(numbers) > 1:
        usual = numbers.most_common(1)[0][0]
        odd = next(uid for uid, responses in by_uid.items() if len(responses) != usual)
        raise ValueError(
            f"{path}: most problems have {usual} responses, {odd!r} has {len(by_uid[odd])}; give "
            "each as many, or score them separately"
        )


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for place, _, row in json_rows(path):
        if not isinstance(row, dict):
            raise ValueError(f"{place} is not a JSON object")
        named = next((name for name in _ID_NAMES if row.get(name) is not None), None)
        if named is None or not isinstance(row.get("response", 0), str | None):
            there = ", ".join(row)
            raise ValueError(f"{place} needs `id` and the text `response`, it has {there}")
        for name, kind in _FIELDS.items():
            if row.get(name) is not None and kind is not object and type(row[name]) is not kind:
                raise ValueError(f"{place}: {name} must be of type {kind.__name__}")
        yield place, row | {"id": row[named]}


def _object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _without_batch(line: str) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(line)
    del row["batch"]
    return row


@dataclass(frozen=True)
class GivenResponses:
    """Responses [P][samples] that were made elsewhere."""

    groups: list[list[Response]]
    missing: tuple[ProblemBatch, ...] = ()
