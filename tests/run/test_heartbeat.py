"""Whose fault it is that a rank ends: its own, or that of one that is gone.

Broken on purpose, each seen red: whoever is late taken for gone -> alive; nobody elsewhere
taken for gone -> elsewhere; the state of a process not read -> has ended.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlm_rl.run.heartbeat import Beat, Heartbeat, OtherEnded

HERE = socket.gethostname()


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that lives and refreshes no file, as if it never got a core."""
    monkeypatch.setattr("vlm_rl.run.heartbeat.GONE_S", 0.5)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]) as process:
        yield process
        process.kill()


def fail_beside(pid: int, host: str, folder: Path) -> None:
    """Meet an error, as of a collective, after the last beat of rank 1."""
    with Heartbeat(folder, 60.0, rank=0, num_ranks=2) as heart:
        beat = Beat(1, 2, "rollout", 7, 0.0, pid, host)
        file = heart.folder / "rank_1.json"
        file.write_text(json.dumps(beat._asdict()))
        os.utime(file, (0, 0))
        raise RuntimeError("connection closed")


def test_rank_that_is_late_and_alive_is_not_gone(
    late: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="connection closed") as raised:
        fail_beside(late.pid, HERE, tmp_path)
    assert not isinstance(raised.value, OtherEnded)


def test_rank_that_has_ended_is_named(late: subprocess.Popen[bytes], tmp_path: Path) -> None:
    late.kill()
    with pytest.raises(OtherEnded, match=r"rank 0 ends, rank 1 is gone .* rollout of step 7"):
        fail_beside(late.pid, HERE, tmp_path)


def test_rank_that_is_late_elsewhere_is_named(
    late: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    with pytest.raises(OtherEnded, match="rank 0 ends, rank 1 is gone"):
        fail_beside(late.pid, "elsewhere", tmp_path)
