"""What a run cannot use is found before data and model are read: its folder, the key of W&B.

Broken on purpose, one at a time, each seen red: the folder not tried; a file in the path not
looked for; the key checked after the data; the answer of W&B's server ignored; an error of W&B in
the middle raised; no word of a server that is away; W&B's run begun without a way offline, or ended
when Python ends; what has not begun left in the folder; W&B's process not ended, so that its id is
in use.
"""

import itertools
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.run.test_endings import hear_before
from tests.support.false_server import FalseServer, false_server, of_json, raw
from tests.support.false_wandb import LOSSES, FalseWandb
from tests.support.parameters import also_long
from tests.support.patience import until
from tests.support.run_helpers import command
from vlm_rl.data.datamodule import ProblemData
from vlm_rl.fit import fit
from vlm_rl.run.folder import find_resume
from vlm_rl.trackers.steady_wandb import SteadyWandb, Watch
from vlm_rl.training.module import RLModule

KEY = "a" * 40


@pytest.fixture
def line_of(
    policy_folder: Path,
    data_folder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., str]:
    """Return the line of a start that ends with status 2 before it reads data."""

    def line_of(run_dir: Path, **overrides: object) -> str:
        read = lambda *_: pytest.fail("the data were read")  # noqa: E731
        monkeypatch.setattr(ProblemData, "setup", read)
        with pytest.raises(SystemExit) as raised:
            fit(command(policy_folder, data_folder, run_dir, **overrides))
        assert raised.value.code == 2
        err = capfd.readouterr().err
        [line] = re.findall(r"^vlm_rl\.fit: .*$", err, re.MULTILINE)
        assert "Traceback" not in err
        return str(line)

    return line_of


def test_file_in_the_place_of_a_folder(line_of: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for place in ("file", "file/run", "file/deep/run"):
        assert f"{tmp_path}/file is a file, not a folder; give an" in line_of(tmp_path / place)
    for place in ("dangling", "dangling/run"):
        assert f"{tmp_path}/dangling is a link to nothing" in line_of(tmp_path / place)
    assert "is no path: File name too long" in line_of(tmp_path / ("n" * 300))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system that even root cannot write to."""
    folder = tmp_path / "disk"
    (folder).mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a disk")
    (folder / "run/checkpoints").mkdir(parents=True)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_read_only_file_system(line_of: Callable[..., str], read_only: Path) -> None:
    for place in (read_only / "new", read_only / "run"):
        assert "this user cannot write into" in line_of(place)
        assert "(Read-only file system); give another by --run_dir" in line_of(place)


def test_trying_leaves_nothing(tmp_path: Path) -> None:
    assert find_resume(tmp_path / "a/b", {}) is None
    assert list(tmp_path.iterdir()) == []


ANSWERS = {
    "refused": raw(b'{"errors":[{"message":"unknown key"}]}', "401 Unauthorized"),
    "away": None,
}


@pytest.mark.parametrize("kind", [*ANSWERS, "short", "no key"])
def test_bad_key_of_wandb(
    kind: str, line_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = {
        "refused": "unknown key",
        "away": "Failed to authenticate with http://127.0.0.1",
        "short": "API key must have 40+ characters, has 5",
        "no key": "",
    }
    key = {"short": "abcde", "no key": ""}.get(kind, KEY)
    with false_server() as server:
        online(monkeypatch, tmp_path, server, key)
        if answer := ANSWERS.get(kind):
            server.answers["graphql"] = answer
        else:
            server.close()
        line = line_of(tmp_path / "run", logging__wandb="online")
        if answer:
            server.seen.clear()
    assert "logging.wandb=online: " in line
    assert says[kind] in line
    assert "log in by `wandb login`, or keep the run on this disk by --logging.wandb off" in line
    assert KEY not in line
    assert not (tmp_path / "run").exists()


def online(
    monkeypatch: pytest.MonkeyPatch, home: Path, server: FalseServer, key: str = KEY
) -> None:
    """Let W&B believe that it is online with this server, and has no other key."""
    import wandb

    wandb.teardown()
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("NETRC", str(home / "netrc"))


@pytest.fixture(autouse=True)
def forget_the_server() -> Iterator[None]:
    import wandb
    from wandb.sdk.lib import module

    yield
    with suppress(OSError):  # a test has killed W&B's process
        wandb.teardown()
    module.unset_globals()  # else the next run in this process goes on in the dead one


def before_the_call(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, call: Callable[[], object]
) -> None:
    """Do something first whenever a function is called."""
    real = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *a, **k: (call(), real(*a, **k))[1])


def kill_wandb() -> None:
    """Kill W&B's own process."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.ZombieProcess):  # one of an earlier run
            if "wandb" in " ".join(child.cmdline()):
                child.kill()
                child.wait()


def test_loss_of_wandb_in_the_middle_is_said_once_and_the_run_goes_on(
    policy_folder: Path,
    data_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own process is killed in the first update, really."""
    before_the_call(monkeypatch, RLModule, "update", kill_wandb)
    keys = {"steps": 2, "data.val_problems": 1, "logging.wandb": "offline"}
    fit(command(policy_folder, data_folder, tmp_path / "run", **keys))
    out, err = capfd.readouterr()
    assert out.count("W&B no longer takes what is logged") == 1
    assert "Traceback" not in err
    assert (tmp_path / "run/summary.json").exists()


@pytest.fixture
def online_run(
    policy_folder: Path,
    data_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., tuple[int, list[str]]]]:
    """Return a function that trains online until its end; it returns status and W&B's lines."""
    monkeypatch.setattr("wandb.apis.public.api.Api._HTTP_TIMEOUT", 5)
    with closing(FalseWandb()) as server:
        online(monkeypatch, tmp_path, server)

        def run(**keys: object) -> tuple[int, list[str]]:
            argv = command(
                policy_folder,
                data_folder,
                tmp_path / "run",
                **{"steps": 1, "data.val_problems": 1, "logging.wandb": "online"} | keys,
            )
            status: Any = 0
            try:
                fit(argv)
            except SystemExit as end:
                status = end.code
            out, err = capfd.readouterr()
            assert "Traceback" not in err
            return status, re.findall(r"^W&B .*$", out, re.MULTILINE)

        run.server = server  # type: ignore[attr-defined]
        yield run


def kept_run(folder: Path) -> str:
    """Return the one run of W&B in a folder of ours, which has its records."""
    [kept] = [path for path in (folder / "wandb").glob("*run-*") if not path.is_symlink()]
    [records] = kept.glob("*.wandb")
    until(lambda: records.stat().st_size > 1000)  # W&B's own process writes them
    return str(kept)


@pytest.mark.parametrize("loss", ["refuses", *map(also_long, ("never answers", "answers 500"))])
def test_server_that_is_lost_before_the_run_begins(
    loss: str, online_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the key was checked."""
    monkeypatch.setattr("vlm_rl.trackers.wandb_setup.START_S", 2.0)
    before_the_call(monkeypatch, ProblemData, "setup", lambda: LOSSES[loss](online_run.server))
    status, lines = online_run()
    kept = kept_run(tmp_path / "run")
    assert Path(kept).name.startswith("offline-run-")
    [line] = lines
    assert line.startswith("W&B cannot begin this run (")
    assert line.endswith(f"the run goes on offline, send it later by `wandb sync {kept}`")
    assert status == 0
    assert (tmp_path / "run/summary.json").exists()


SHORT = ("never answers", "done"), ("refuses", "SIGINT"), ("answers 500", "done")


@pytest.mark.parametrize(
    ("loss", "ending"),
    [
        pytest.param(*case, marks=[] if case in SHORT else pytest.mark.long)
        for case in itertools.product(LOSSES, ("done", "SIGINT"))
    ],
)
def test_server_that_is_lost_at_the_end(
    loss: str, ending: str, online_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("wandb_setup", "steady_wandb"):
        monkeypatch.setattr(f"vlm_rl.trackers.{module}.FINISH_S", 2.0)
    before_the_call(monkeypatch, SteadyWandb, "__exit__", lambda: LOSSES[loss](online_run.server))
    if ending == "SIGINT":
        hear_before(monkeypatch, RLModule, "update", signal.SIGINT)
    status, [line] = online_run()
    kept = kept_run(tmp_path / "run")
    assert line == (
        "W&B did not take the last of this run within 2 s; it is kept, send it by "
        f"`wandb sync {kept}`"
    )
    assert status == {"done": 0, "SIGINT": 130}[ending]
    assert [path.name for path in (tmp_path / "run/checkpoints").glob("step_*")] == ["step_1"]
    assert not (tmp_path / "run/lock").exists()


@pytest.mark.parametrize("when", ["before", "while it sends"])
def test_process_of_wandb_that_is_gone_at_the_end(
    when: str, online_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had not written is lost, so nothing is left to be sent."""

    def kill_as_it_asks() -> Iterator[bytes]:
        kill_wandb()
        yield b""

    asked = lambda: setattr(online_run.server, "lost", kill_as_it_asks)  # noqa: E731
    gone = kill_wandb if when == "before" else asked
    before_the_call(monkeypatch, SteadyWandb, "__exit__", gone)
    status, [line] = online_run()
    assert line.startswith("W&B did not take the last of this run (")
    assert line.endswith(f"); {tmp_path / 'run'} has it all")
    assert status == 0


@pytest.mark.long
def test_server_that_is_lost_in_the_middle_takes_the_rest_at_the_end(
    online_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples are a table, for which W&B asks its server at once."""
    before_the_call(
        monkeypatch, RLModule, "update", lambda: LOSSES["answers 500"](online_run.server)
    )
    back = lambda: setattr(online_run.server, "lost", None)  # noqa: E731
    before_the_call(monkeypatch, SteadyWandb, "__exit__", back)
    assert online_run(validation__every_n_steps=1) == (0, [])


def test_server_that_is_away_and_back_is_said_once_each(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with false_server() as server:
        watch = Watch(server.url, every_s=3600)
        for _ in range(2):
            watch._look()
        assert capfd.readouterr().out == ""
        port = int(server.url.rpartition(":")[2])
        server.close()
        for _ in range(3):
            watch._look()
        [line] = capfd.readouterr().out.splitlines()
        assert f"W&B at {server.url} cannot be reached (ConnectionError); the run goes on" in line
        again = FalseServer({"": of_json({})}, port)
        for _ in range(2):
            watch._look()
        [line] = capfd.readouterr().out.splitlines()
        assert line == f"W&B at {server.url} is reached again"
        again.close()
        watch.close()
