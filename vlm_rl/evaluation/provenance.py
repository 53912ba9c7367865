"""The origin of a result: digests of problems and weights, versions, and whose responses."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vlm_rl.records import Problem
from vlm_rl.show.log import Log

_logger = Log(__name__)
_PACKAGES = ("vlm-rl", "torch", "transformers", "pint")
_BLOCKS, _BLOCK_BYTES = 64, 4096
_MARK = re.compile(r"<image\s*\d*>")
_QUESTIONS = ("question", "problem", "query", "prompt")
_PIECE = 12


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide what is sampled and what is right."""
    return {name: version(name) for name in _PACKAGES}


def problems_digest(problems: Sequence[Problem], instruction: str = "") -> str:
    """Return a digest, equal for the same questions, choices, images, golds and instruction."""
    digest = hashlib.sha256(instruction.encode())
    for problem in problems:
        asked = (problem.uid, problem.question, problem.choices, problem.answer)
        digest.update(repr(asked).encode("utf-8", "backslashreplace"))
        for image in problem.images:
            digest.update(image if isinstance(image, bytes) else image.read_bytes())
    return f"sha256 {digest.hexdigest()[:16]}"


def weights_digest(checkpoint: str) -> str | None:
    """Return a digest of blocks spread over the weight files of a folder, which a training step
    changes; None for anything but a folder, such as a hub id."""
    files = sorted(Path(checkpoint).glob("*.safetensors"))
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for block in range(_BLOCKS):
                file.seek(block * max(0, size - _BLOCK_BYTES) // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return f"sha256 {digest.hexdigest()[:16]}"


def question_sha256(problem: Problem) -> str:
    """Return 16 hex digits, equal for the same text and choices, with or without images."""
    texts = (problem.question, *(problem.choices or ()))
    plain = ["".join(_MARK.sub("", text).split()) for text in texts]
    return hashlib.sha256("\0".join(plain).encode()).hexdigest()[:16]


def check_same_questions(label: str, pairs: Iterable[tuple[Problem, Mapping[str, Any]]]) -> None:
    """Check that rows of responses are about the problems that their ids name.

    Ids such as 1 to 1000 fit several benchmarks. Raises ValueError if most rows hold the text of
    another question. Warns in one line of single such rows, and of rows that hold no question.
    """
    same = [(str(row["id"]), _is_same(problem, row)) for problem, row in pairs]
    known = [each for each in same if each[1] is not None]
    others = [uid for uid, is_same in known if not is_same]
    if not known:
        _logger.warning(
            "%s: no row holds its question, so only the ids say that the responses belong to this "
            "benchmark; add `question` to have it checked",
            label,
        )
    elif others:
        found = f"{len(others)} of {len(known)} rows seem to hold another question than "
        found += f"the problem of their id, the first with the id {others[0]!r}"
        if 2 * len(others) > len(known):
            raise ValueError(f"{label}: {found}; name the benchmark and split of the responses")
        _logger.warning("%s: %s; they are scored all the same", label, found)


def _is_same(problem: Problem, row: Mapping[str, Any]) -> bool | None:
    """Compare the questions; None if `row` holds none."""
    if isinstance(row.get("question_sha256"), str):
        return bool(row["question_sha256"] == question_sha256(problem))
    ours = _letters_and_digits(problem.question)
    theirs = [_letters_and_digits(row[n]) for n in _QUESTIONS if isinstance(row.get(n), str)]
    return any(_overlap(ours, text) for text in theirs if text) if any(theirs) else None


def _overlap(left: str, right: str) -> bool:
    """Whether a quarter of the pieces of the shorter text are in the longer one, to which a harness
    may have added hints and choices."""
    shorter, longer = sorted((left, right), key=len)
    pieces = [shorter[i : i + _PIECE] for i in range(max(1, len(shorter) - _PIECE + 1))]
    return 4 * sum(piece in longer for piece in pieces) >= len(pieces)


def _letters_and_digits(text: str) -> str:
    return re.sub(r"[\W_]", "", _MARK.sub("", text)).lower()
