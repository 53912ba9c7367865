"""Files written whole or not at all, and not trusted when they are read.

A kill leaves the old file, or none, beside a `.partial` that the next start deletes.
"""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

Kind = TypeVar("Kind", dict[str, Any], list[Any])

PARTIAL = ".partial"


class Damaged(ValueError):
    """A file is not what was written there. The message names it and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is damaged ({reason})")
        self.reason = reason


class Unwritable(RuntimeError):
    """A file could not be written; what stood there is untouched."""


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Yield a path to write to; at the end it becomes `target`, and is on the disk.

    Raises Unwritable, and whatever is raised inside; then `target` stays as it was.
    """
    partial = target.with_name(target.name + PARTIAL)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        _flush(partial)  # a rename may survive a power cut that the content does not
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise Unwritable(f"cannot write {target}: {error.strerror or error}") from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(target: Path, text: str) -> None:
    """Write a text file. A lone surrogate becomes its escape, which JSON reads as the same.

    Raises Unwritable.
    """
    write_bytes(target, text.encode("utf-8", errors="backslashreplace"))


def write_bytes(target: Path, content: bytes) -> None:
    """Write a file. Raises Unwritable."""
    with written_whole(target) as partial:
        partial.write_bytes(content)


def read_text(path: Path) -> str:
    """Return the text of a file. Raises Damaged, also if it is missing or not a plain file."""
    try:
        # a named pipe would wait for a writer, a device might not end
        if not stat.S_ISREG(path.stat().st_mode):
            raise Damaged(path, "not a file")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Damaged(path, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise Damaged(path, f"no text at byte {error.start}") from error


def read_json(path: Path, kind: type[Kind]) -> Kind:
    """Return the `kind`, a dict or list, in a JSON file. Raises Damaged."""
    try:
        value = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise Damaged(path, "not valid JSON") from error
    if not isinstance(value, kind):
        raise Damaged(path, f"not a JSON {kind.__name__}, but {value!r:.40}")
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the YAML mapping in a file. Raises Damaged."""
    try:
        value = yaml.safe_load(read_text(path))
    # a number or date out of range is a plain ValueError
    except (yaml.YAMLError, RecursionError, OverflowError) as error:
        raise Damaged(path, "not valid YAML") from error
    except ValueError as error:
        raise error if isinstance(error, Damaged) else Damaged(path, str(error)) from error
    if not isinstance(value, dict):
        raise Damaged(path, "empty" if value is None else f"not `key: value`, but {value!r:.40}")
    return value


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
