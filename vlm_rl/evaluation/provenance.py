"""The origin of a result: digests of problems and weights, and package versions, to compare."""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from vlm_rl.records import Problem

_PACKAGES = ("vlm-rl", "torch", "transformers", "math-verify")
_BLOCKS, _BLOCK_BYTES = 64, 4096


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
