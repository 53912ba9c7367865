"""Data that a program makes is made once, when it is missing, by one of those that want it.

Broken on purpose, one at a time, each seen red: no lock; no second look after waiting for it.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.places import REPOSITORY
from vlm_rl.data.made import make_if_missing

MAKER = """
import sys
import time
from pathlib import Path
time.sleep(1)
target = Path(sys.argv[1])
with open("calls", "a") as calls:
    calls.write("call\\n")
target.write_text("whole")
"""
WANTS = """
import sys
from pathlib import Path
from vlm_rl.data.made import make_if_missing
sys.stdin.readline()
make_if_missing(Path("there/rows"), "maker there/rows")
assert Path("there/rows").read_text() == "whole"
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "maker.py").write_text(MAKER)
    (tmp_path / "failing.py").write_text("raise SystemExit(7)\n")
    (tmp_path / "lazy.py").write_text("pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}:{tmp_path}")
    return tmp_path


def test_missing_is_made_and_present_is_left(place: Path, capsys: pytest.CaptureFixture) -> None:
    target = Path("there/rows")
    make_if_missing(target, "maker there/rows")
    line = "there/rows is missing; making it: python -m maker there/rows\n"
    assert capsys.readouterr().err == line
    target.write_text("mine")
    make_if_missing(target, "maker there/rows")
    assert target.read_text() == "mine"
    assert (place / "calls").read_text() == "call\n"
    assert [path.name for path in target.parent.iterdir()] == ["rows"]


def test_of_several_processes_one_makes_it(place: Path) -> None:
    start = [sys.executable, "-c", WANTS]
    ranks = [subprocess.Popen(start, stdin=subprocess.PIPE) for _ in range(3)]
    for rank in ranks:  # all before the first is waited for
        assert rank.stdin is not None
        rank.stdin.write(b"\n")
        rank.stdin.close()
    for rank in ranks:
        rank.wait()
    assert [rank.returncode for rank in ranks] == [0, 0, 0]
    assert (place / "calls").read_text() == "call\n"
    assert [path.name for path in (place / "there").iterdir()] == ["rows"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("failing", "rows: python -m failing ended with status 7"),
        ("lazy", "rows: python -m lazy has not made it; change `made_by`"),
    ],
)
def test_failure_is_one_line(arguments: str, line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}$"):
        make_if_missing(Path("rows"), arguments)
    assert not Path("rows.lock").exists()


def test_folder_that_cannot_be_made_is_named(place: Path) -> None:
    (place / "file").write_text("")
    with pytest.raises(ValueError, match=r"^cannot make file/rows: "):
        make_if_missing(Path("file/rows"), "maker file/rows")
