"""Damaged files of a run's folder: the same command names or rebuilds them, without a traceback."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from measurements.attacks.ground import ENDINGS, Attack, Ground


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[len(data) // 2] ^= 255
    path.write_bytes(data)


def _halved(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _replaced(path: Path, make: Callable[[Path], None]) -> None:
    path.unlink()
    make(path)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty": lambda path: os.truncate(path, 0),
    "half": _halved,
    "one byte flipped": _flipped,
    "zeros": lambda path: _fill(path, bytes(path.stat().st_size)),
    "binary": lambda path: _fill(path, bytes(range(256)) * 9),
    "a list": lambda path: _fill(path, b"[1, 2]\n"),
    "null": lambda path: _fill(path, b"null\n"),
    "no names": lambda path: _fill(path, b"{}\n"),
    "other types": lambda path: _fill(path, b'{"step": "x", "steps": [], "run_dir": 7}\n'),
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: _replaced(path, Path.mkdir),
    "a dangling link": lambda path: _replaced(path, lambda new: new.symlink_to("nowhere")),
    "a link to itself": lambda path: _replaced(path, lambda new: new.symlink_to(new.name)),
    "appended": lambda path: _fill(path, path.read_bytes() + b"\x00garbage,,\n\xff"),
}


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def attacks(ground: Ground, count: int, seed: int) -> Iterator[Attack]:
    """Yield a start of a begun run with one file damaged in one way, drawn without repetition."""
    begun = ground.folder / "begun"
    files = [path.relative_to(begun) for path in sorted(begun.rglob("*")) if path.is_file()]
    files = [path for path in files if path.parts[0] != "plots"]
    kinds = [(path, name) for path in files for name in DAMAGES]
    for path, name in random.Random(seed).sample(kinds, min(count, len(kinds))):

        def tried(folder: Path, path: Path = path, name: str = name) -> str:
            run_dir = ground.begun(folder)
            DAMAGES[name](run_dir / path)
            broke = ground.run(run_dir).broke(*ENDINGS)
            shutil.rmtree(run_dir, ignore_errors=True)
            return broke

        yield Attack("damaged files", f"{path}: {name}", tried)
