"""A folder has one owner: a second start is refused, a dead owner is not waited for.

Mutations tried, each seen red: no guard around reading and taking -> same moment; the owner's start
not compared -> another process of its number; every lock of another machine stale, or none -> other
machine; not freed after an error -> freed; no beat -> sign of life; the owner not compared at a
beat -> taken away; freed by a forked child -> forked child.
"""

import json
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from tests.support.run_helpers import QUICKSTART
from vlm_rl.evaluate import evaluate
from vlm_rl.fit import fit
from vlm_rl.run import lock as run_lock
from vlm_rl.run.lock import LOCK, FolderInUse, FolderLock, Owner

FORK = multiprocessing.get_context("fork")


def _owner(folder: Path) -> dict[str, Any]:
    owner: dict[str, Any] = json.loads((folder / LOCK).read_text())
    return owner


def _plant(folder: Path, *, silent_s: float = 0.0, **changes: Any) -> Path:
    """Put a lock of this living process there, with changes, as another start would have.

    It comes whole: an owner that looks at half a lock takes it for one that a kill has cut short.
    """
    file, whole = folder / LOCK, folder / "lock.whole"
    whole.write_text(json.dumps(Owner.here()._asdict() | changes))
    last = whole.stat().st_mtime - silent_s
    os.utime(whole, (last, last))
    return whole.replace(file)


def _in_child(call: Callable[[], object]) -> int:
    """Return the status of a forked process that makes the call."""
    child = os.fork()
    if child == 0:
        try:
            call()
        except BaseException:  # a forked child must not return into its parent's code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_second_start_is_refused_with_who_since_when_and_the_way_out(tmp_path: Path) -> None:
    with FolderLock(tmp_path, "run_dir"):
        owner = _owner(tmp_path)
        with pytest.raises(FolderInUse) as refused, FolderLock(tmp_path, "run_dir"):
            pass
        assert _owner(tmp_path) == owner
    line = str(refused.value)
    assert line.startswith(f"run_dir={tmp_path} is in use by process {os.getpid()} on ")
    assert f"{owner['host']} since {owner['since']}" in line
    assert "wait for its end or stop it, or give another folder by --run_dir" in line
    assert "\n" not in line


def test_folder_is_freed_after_any_ending_and_what_was_made_for_it_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "first"
    for error in (ValueError, SystemExit, KeyboardInterrupt):
        with pytest.raises(error), FolderLock(folder, "run_dir"):
            raise error
        assert not (tmp_path / "runs").exists()
    with FolderLock(folder, "run_dir"):
        (folder / "kept").touch()
    assert [path.name for path in folder.iterdir()] == ["kept"]


def _take(folder: Path, start: Barrier, done: Barrier, won: Any) -> None:
    start.wait()
    try:
        with FolderLock(folder, "run_dir"):
            won.put(os.getpid())
            done.wait()
    except FolderInUse:
        done.wait()


@pytest.mark.parametrize("before", ["nothing", "a stale lock", "half a lock"])
def test_of_starts_at_the_same_moment_one_wins(before: str, tmp_path: Path) -> None:
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        if before == "a stale lock":
            _plant(folder, began="0")
        elif before == "half a lock":
            (folder / LOCK).write_text('{"host": "a')
        start, done, won = FORK.Barrier(6), FORK.Barrier(6), FORK.SimpleQueue()
        starts = [FORK.Process(target=_take, args=(folder, start, done, won)) for _ in range(6)]
        for process in starts:
            process.start()
        for process in starts:
            process.join()
            assert process.exitcode == 0
        winner = won.get()
        assert won.empty(), f"{winner} and {won.get()} own one folder"


def test_killed_owner_is_not_waited_for(tmp_path: Path) -> None:
    def killed() -> None:
        FolderLock(tmp_path, "run_dir").__enter__()
        os.kill(os.getpid(), signal.SIGKILL)

    assert _in_child(killed) == -signal.SIGKILL
    before = _owner(tmp_path)
    with FolderLock(tmp_path, "run_dir"):
        assert _owner(tmp_path)["pid"] == os.getpid() != before["pid"]


def test_process_that_ended_but_is_not_waited_for_by_its_parent_is_dead(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert run_lock.process_start(child) is None
    os.waitpid(child, 0)


def test_another_process_of_the_owners_number_is_not_the_owner(tmp_path: Path) -> None:
    _plant(tmp_path, began="1")
    with FolderLock(tmp_path, "run_dir"):
        assert _owner(tmp_path)["began"] == run_lock.process_start(os.getpid())


OTHER = {"host": "elsewhere", "machine": "elsewhere boot pid", "pid": 1, "began": "1"}


def test_lock_of_another_machine_is_stale_after_a_minute_without_a_sign(tmp_path: Path) -> None:
    _plant(tmp_path, silent_s=40, **OTHER)
    with pytest.raises(FolderInUse) as refused, FolderLock(tmp_path, "run_dir"):
        pass
    line = str(refused.value)
    assert "process 1 on elsewhere" in line
    assert "its last sign of life was 40 s ago, after 60 s without one the folder is free" in line
    _plant(tmp_path, silent_s=61, **OTHER)
    with FolderLock(tmp_path, "run_dir"):
        assert _owner(tmp_path)["pid"] == os.getpid()


def test_owner_gives_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT_S", 0.01)
    with FolderLock(tmp_path, "run_dir"):
        file = tmp_path / LOCK
        os.utime(file, (0, 0))
        while file.stat().st_mtime == 0:
            time.sleep(0.01)
        file.unlink()  # by a person, and nobody else has come
        while not file.exists():
            time.sleep(0.01)


def test_owner_that_another_start_has_replaced_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_lock, "BEAT_S", 0.01)

    def replaced() -> None:
        with FolderLock(tmp_path, "run_dir"):
            _plant(tmp_path, **OTHER)
            time.sleep(20)  # long enough for a beat on a busy machine

    assert _in_child(replaced) == 1
    line = capfd.readouterr().err
    assert "is in use by process 1 on elsewhere" in line
    assert "this process ends" in line
    assert _owner(tmp_path)["pid"] == 1


def test_forked_child_does_not_free_the_folder(tmp_path: Path) -> None:
    with FolderLock(tmp_path, "run_dir") as lock:
        assert _in_child(lambda: lock.__exit__(None, None, None)) == 0
        assert _owner(tmp_path)["pid"] == os.getpid()


def test_lock_on_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(run_lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "lockf", refuse)
    with FolderLock(tmp_path, "run_dir"), pytest.raises(FolderInUse):
        FolderLock(tmp_path, "run_dir").__enter__()


UNUSABLE: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "dangling link": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_is_no_lock_is_named(kind: str, tmp_path: Path) -> None:
    UNUSABLE[kind](tmp_path / LOCK)
    with pytest.raises(ValueError, match=f"cannot take {tmp_path}/lock: ") as raised:
        FolderLock(tmp_path, "run_dir").__enter__()
    assert "give another folder by --run_dir" in str(raised.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "3", "{}", "\0\xff", '{"pid": "x"}', "[" * 9999]
)
def test_damaged_lock_is_nobodys(text: str, tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(text, encoding="latin-1")
    with FolderLock(tmp_path, "run_dir"):
        assert _owner(tmp_path)["pid"] == os.getpid()


def test_lock_of_wrong_types_is_nobodys(tmp_path: Path) -> None:
    _plant(tmp_path, since=3)
    with FolderLock(tmp_path, "run_dir"):
        assert isinstance(_owner(tmp_path)["since"], str)


PROGRAMS: dict[str, tuple[Callable[..., object], list[str]]] = {
    "vlm_rl.fit": (fit, ["--config", str(QUICKSTART), "--steps", "1", "--run_dir"]),
    "vlm_rl.evaluate": (evaluate, ["--model", "none", "--benchmark", "mathvision", "--output"]),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_command_ends_with_status_2_in_a_folder_that_another_owns(
    program: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, argv = PROGRAMS[program]
    with FolderLock(tmp_path, "run_dir"):
        before = _owner(tmp_path)
        with pytest.raises(SystemExit) as ended:
            command([*argv, str(tmp_path)])
        assert _owner(tmp_path) == before
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{program}: ")
    assert f"={tmp_path} is in use by process {os.getpid()}" in line


@pytest.mark.parametrize("program", PROGRAMS)
def test_command_that_is_refused_frees_its_folder(program: str, tmp_path: Path) -> None:
    command, argv = PROGRAMS[program]
    wrong = {"vlm_rl.fit": "--policy.path=none", "vlm_rl.evaluate": "--data={mathvision: none}"}
    with pytest.raises(SystemExit):
        command([*argv, str(tmp_path / "made"), wrong[program]])
    assert not [*tmp_path.iterdir()]
