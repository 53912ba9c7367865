"""Replies of a judge on the disk, by the content of what was asked.

One file a reply, written whole and moved into place under a name of its own first, so that ranks
and runs may share a folder. What is damaged counts as absent. The oldest go when the folder is
above its size.
"""

import contextlib
import hashlib
import os
import threading
from pathlib import Path
from typing import Any

from vlm_rl.disk.files import Damaged, Unwritable, read_json, write_bytes
from vlm_rl.show.json_text import json_text
from vlm_rl.show.log import Log

_SUFFIX = ".reply.json"
_KEPT_FRAC = 0.9
_logger = Log(__name__)


class JudgeCache:
    """Replies in `folder`, together at most about `most_bytes`; None keeps none."""

    def __init__(self, folder: Path | None, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._written = most_bytes  # so that the first reply counts what is there
        self._lock = threading.Lock()
        self._failed = False

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was put under a key."""
        if self._folder is None:
            return None
        try:
            return read_json(self._path(key), dict)
        except Damaged:
            return None

    def put(self, key: str, reply: dict[str, Any]) -> None:
        """Keep a reply. A disk that cannot be written is said once; the run goes on."""
        if self._folder is None:
            return
        content = json_text(reply).encode("utf-8", errors="backslashreplace")
        path = self._path(key)
        # a name of its own: another rank or thread may write the same reply
        own = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
        try:
            write_bytes(own, content)
            own.replace(path)
            self._bound(len(content))
        except (OSError, Unwritable) as error:
            if not self._failed:
                _logger.warning("the judge's replies are not kept in %s: %s", self._folder, error)
            self._failed = True

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / key[:2] / f"{key}{_SUFFIX}"

    def _bound(self, num_bytes: int) -> None:
        """Remove the oldest replies; look at the folder after each tenth of its size only."""
        with self._lock:
            self._written += num_bytes
            if self._written < (1 - _KEPT_FRAC) * self._most_bytes:
                return
            self._written = 0
            assert self._folder is not None
            files = []
            for path in self._folder.glob(f"??/*{_SUFFIX}"):
                with contextlib.suppress(OSError):  # another rank has removed it
                    status = path.stat()
                    files.append((status.st_mtime_ns, status.st_size, path))
            size = sum(of_file for _, of_file, _ in files)
            if size <= self._most_bytes:
                return
            for _, of_file, path in sorted(files):
                path.unlink(missing_ok=True)
                size -= of_file
                if size <= _KEPT_FRAC * self._most_bytes:
                    return


def key_of(asked: dict[str, Any]) -> str:
    """Return the digest of all that decides a reply."""
    return hashlib.sha256(json_text(asked).encode("utf-8", "backslashreplace")).hexdigest()
