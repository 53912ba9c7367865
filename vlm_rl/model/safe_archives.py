"""Read weights so that nothing in a file runs: as tensors and plain values, from its own folder."""

import json
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.serialization import safe_globals

_ASKS_FOR = re.compile(r"GLOBAL (\S+)")


def load(file: Path, allowed: Iterable[type] = ()) -> dict[str, Any]:
    """Return what a torch archive holds, on the CPU, its tensors mapped from the file.

    `allowed` are classes beside tensors and plain values. Raises ValueError naming what else the
    file asks for, and FileNotFoundError.
    """
    try:
        with safe_globals([*allowed]):
            saved: dict[str, Any] = torch.load(
                file, map_location="cpu", mmap=True, weights_only=True
            )
    except pickle.UnpicklingError as error:
        raise ValueError(refusal(file, error)) from error
    return saved


def check_index(folder: Path) -> None:
    """Check that every index of weights names files of its own folder, and no device or pipe.

    Raises ValueError.
    """
    for index in folder.glob("*.index.json"):
        try:
            names = {str(name) for name in json.loads(index.read_text())["weight_map"].values()}
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise ValueError(f"{index} is no index of weights: {error}") from error
        for name in sorted(names):
            if Path(name).name != name or not (folder / name).is_file():
                raise ValueError(f"{index} names {name!r:.80}, which is no file of {folder}")


def check_weights(path: str) -> None:
    """Check that a folder has weights, or is an adapter's, before anything is read.

    A hub id has none here yet. Raises ValueError.
    """
    folder = Path(path)
    if folder.is_dir() and not any(any(folder.glob(kind)) for kind in ("*.safetensors", "*.bin")):
        raise ValueError(
            f"{path} has a config.json but no weights (*.safetensors, *.bin); copy them there, or "
            "give another checkpoint"
        )


def refusal(file: Path, error: pickle.UnpicklingError) -> str:
    """Return the line for a file that torch refuses to load as tensors and plain values."""
    asked = _ASKS_FOR.search(str(error))
    what = asked[1] if asked else "more than tensors and plain values"
    return (
        f"{file} asks for {what}, which no weights need and which could run any program, so it is "
        "not loaded; take one whose origin you know"
    )
