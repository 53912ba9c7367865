"""Every way in which a run can end: a status of the table in docs/runs.md, and one line.

Real signals, real errors of the allocator, real files that cannot grow; each case is a run of a
tiny policy. `test_every_status_of_the_table_is_reached` compares the cases with the table.

Broken on purpose, one at a time, each seen red: SIGHUP not among the signals; no second chance for
SIGHUP; no `starting.listen`; the terminal's errors raised; OutOfMemoryError an error like others;
memory saved in an update; a row of the table missing.
"""

import functools
import inspect
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.run import test_survival
from tests.support.parameters import also_long
from tests.support.places import REPOSITORY
from tests.support.run_helpers import REWARD_TERMS, command
from vlm_rl.data.datamodule import ProblemData
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.fit import fit
from vlm_rl.model.policy import Policy
from vlm_rl.rewards import Reward
from vlm_rl.run.folder import checkpoints
from vlm_rl.run.report import Summary
from vlm_rl.training.batching import Batching
from vlm_rl.training.clock import Clock
from vlm_rl.training.forwards import Forwards
from vlm_rl.training.module import RLModule

QUICK = {"steps": 2, "data.val_problems": 1, "validation.greedy": "false"}


class Ended(NamedTuple):
    """How a run ended: its status, its lines on stderr, and its folder."""

    status: int
    lines: list[str]
    err: str
    run_dir: Path

    @property
    def line(self) -> str:
        [line] = self.lines
        return line


Ending = Callable[..., Ended]


@pytest.fixture
def ended(
    policy_folder: Path, data_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Ending:
    """Return a function that runs to the end, in this process."""

    def ended(**overrides: object) -> Ended:
        run_dir = tmp_path / "run"
        keys = QUICK | {key.replace("__", "."): value for key, value in overrides.items()}
        status = 0
        try:
            fit(command(policy_folder, data_folder, run_dir, **keys))
        except SystemExit as raised:
            status = raised.code if isinstance(raised.code, int) else -1
        err = capfd.readouterr().err
        assert "Traceback" not in err
        lines = re.findall(r"^vlm_rl\.fit: .*$", err, re.MULTILINE)
        return Ended(status, lines, err, run_dir)

    return ended


def term_of(fault: str, good_calls: int) -> str:
    """Return reward terms, one of which breaks after so many calls."""
    own = {
        "class_path": "tests.support.broken_parts.BrokenReward",
        "init_args": {"fault": fault, "good_calls": good_calls},
    }
    return json.dumps({**REWARD_TERMS, "own": own})


def engine_of(fault: str, good_calls: int) -> dict[str, object]:
    return {
        "engine": "tests.support.broken_parts.BrokenEngine",
        "engine__init_args__fault": fault,
        "engine__init_args__good_calls": good_calls,
    }


# ---- signals, in each phase

START: dict[str, tuple[type, str]] = {
    "data": (ProblemData, "setup"),
    "encoder": (PromptEncoder, "__init__"),
    "model": (Policy, "from_pretrained"),
    "self test": (Reward, "self_test"),
}
RARER = ("weights", "rollout", "reward", "logprobs", "checkpoint")
SIGNALS = {signal.SIGTERM: 0, signal.SIGHUP: 0, signal.SIGINT: 130, signal.SIGUSR1: 0}


def hear_before(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, number: signal.Signals
) -> None:
    """Send this process a signal when a function is called for the first time."""
    before = getattr(owner, name)
    sent: list[str] = []

    @functools.wraps(before)  # the parser reads signatures
    def after(*args: Any, **kwargs: Any) -> Any:
        if not sent:
            sent.append(name)  # first: the handler may raise
            os.kill(os.getpid(), number)
        return before(*args, **kwargs)

    is_method = inspect.isfunction(before)
    monkeypatch.setattr(owner, name, after if is_method else staticmethod(after))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("phase", ["model", *map(also_long, ("data", "encoder", "self test"))])
def test_signal_in_the_start_leaves_nothing_and_the_next_start_goes(
    phase: str, number: signal.Signals, ended: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        hear_before(patch, *START[phase], number)
        run = ended()
    assert run.status == SIGNALS[number]
    assert f"{number.name} in the start: stopped before training, nothing was ch" in run.line
    assert not run.run_dir.exists()
    if number == signal.SIGINT:
        assert ended(steps=1).status == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("activity", ["update", "validation", *map(also_long, RARER)])
def test_signal_in_an_activity_saves_and_the_next_start_resumes(
    activity: str, number: signal.Signals, ended: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first that begins after an update, when there is a step to save."""
    seen: list[str] = []
    sent: list[str] = []
    real = Clock.__call__

    def heard(self: Clock, name: str) -> Any:
        if "update" in seen and name == activity and not sent:
            sent.append(name)  # first: the handler may raise
            os.kill(os.getpid(), number)
        seen.append(name)
        return real(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(Clock, "__call__", heard)
        run = ended(steps=3, checkpoint__every_n_steps=1, validation__every_n_steps=2)
    assert run.status == SIGNALS[number], run.err
    assert sent, seen
    newest = checkpoints(run.run_dir)[-1].step
    assert f"{number.name} in the" in run.line
    assert f"stopped after step {newest} with a checkpoint, the same command resumes" in run.line
    assert not [*run.run_dir.rglob("*.partial")]
    if number == signal.SIGHUP:
        return
    again = ended(steps=3, checkpoint__every_n_steps=1, validation__every_n_steps=2)
    assert (again.status, again.lines) == (0, [])


@pytest.mark.parametrize(("owner", "name"), [(Summary, "on_fit_end"), (Reward, "close")])
@pytest.mark.long
def test_signal_once_all_is_written_changes_nothing(
    owner: type, name: str, ended: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear_before(monkeypatch, owner, name, signal.SIGINT)
    run = ended()
    assert (run.status, run.lines) == (0, [])
    assert (run.run_dir / "summary.json").exists()


def started(argv: list[str], **how: Any) -> subprocess.Popen[bytes]:
    own = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    own.pop("WANDB_SERVICE", None)
    arguments = [sys.executable, "-m", "vlm_rl.fit", *argv]
    return subprocess.Popen(arguments, env=own, cwd=REPOSITORY, **how)


def loads(process: subprocess.Popen[bytes], library: str) -> None:
    """Wait until a process has loaded a library."""
    while library not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_while_the_program_imports(
    number: signal.Signals, policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    argv = command(policy_folder, data_folder, tmp_path / "run")
    process = started(argv, stderr=subprocess.PIPE)
    loads(process, "libtorch")
    process.send_signal(number)
    _, err = process.communicate()
    line = f"vlm_rl.fit: {number.name} in the start: stopped before it began, nothing was changed\n"
    assert err.decode() == line
    assert process.returncode == SIGNALS[number]
    assert not (tmp_path / "run").exists()


def test_ignored_hangup_stays_ignored(ended: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        hear_before(monkeypatch, Policy, "from_pretrained", signal.SIGHUP)
        run = ended(steps=1)
        assert (run.status, run.lines) == (0, [])
    finally:
        signal.signal(signal.SIGHUP, before)


def test_second_hangup_does_not_kill_what_saves(
    ended: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shell and kernel both send one when a terminal closes."""
    real = RLModule.update

    def heard(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        return real(*arguments, **options)

    monkeypatch.setattr(RLModule, "update", heard)
    run = ended()
    assert run.status == 0
    assert "SIGHUP in the update: stopped after step 1 with a checkpoint" in run.line


# ---- terminals


@pytest.mark.long
def test_closed_terminal_saves_and_says_so_in_the_log(
    policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    """The process has a terminal of its own, which goes away as a closed window does."""
    run_dir = tmp_path / "run"
    argv = command(policy_folder, data_folder, run_dir, **QUICK | {"steps": 10_000})
    ours, theirs = pty.openpty()
    process = started(argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    with os.fdopen(ours, "rb", 0) as screen:
        while not (run_dir / "rollouts/step_000002.jsonl").exists():
            assert screen.read(4096)
    # the process is no leader of this terminal, so the kernel sends nothing; the shell would
    process.send_signal(signal.SIGHUP)
    assert process.wait() == 0
    log = (run_dir / "terminal.log").read_text(errors="replace")
    [line] = re.findall(r"vlm_rl\.fit: .*", log)
    newest = checkpoints(run_dir)[-1].step
    assert f"SIGHUP in the {line.split()[4]}" in line
    assert f"stopped after step {newest} with a checkpoint" in line
    assert "Traceback" not in log


@pytest.mark.parametrize("way", ["pipe", also_long("closed")])
def test_run_goes_on_without_its_stdout(
    way: str, policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    argv = command(policy_folder, data_folder, tmp_path / "run", **QUICK)
    if way == "pipe":
        process = started(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout
        process.stdout.close()  # as `| head` does
    else:
        close = lambda: (os.close(1), None)[1]  # noqa: E731
        process = started(argv, preexec_fn=close, stderr=subprocess.PIPE)  # as `>&-` does
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert b"Traceback" not in err
    assert b"Exception ignored" not in err
    assert (tmp_path / "run/summary.json").exists()
    if way == "pipe":
        assert "accuracy, sampled" in (tmp_path / "run/terminal.log").read_text()


# ---- memory


MEMORY: dict[str, tuple[dict[str, object], str]] = {
    "host, in a reward": (
        {"reward__terms": term_of("memory", 3)},
        r"out of memory in the reward \(.*\); try sampling\.max_completion_tokens=6 \(now 12\), or "
        r"group_size=2 \(now 4\), or data\.prompts_per_step=1 \(now 2\)",
    ),
    "host, Python": (
        {"reward__terms": term_of("python memory", 3)},
        r"out of memory in the reward \(MemoryError\); try sampling\.max_completion_tokens=6",
    ),
    "device, in the engine": (
        engine_of("memory", 3),
        r"out of memory in the rollout \(CUDA out of memory.*try sampling\.max_completion_tokens=6",
    ),
    "device, in the update": (
        {"objective": "tests.support.broken_parts.ShortOfMemory"},
        r"out of memory in the update \(.*; try updates\.micro_batch_tokens=\d+ \(now \d+\), or "
        r"sampling\.max_completion_tokens=6 \(now 12\), or policy\.gradient_checkpointing=true",
    ),
}


@pytest.mark.parametrize("kind", MEMORY)
def test_lack_of_memory_says_what_to_lower_in_numbers(kind: str, ended: Ending) -> None:
    overrides, words = MEMORY[kind]
    run = ended(steps=4, checkpoint__every_n_steps=9, **overrides)
    assert run.status == 71, run.err
    assert re.search(words, run.line), run.line
    assert "error.log" in run.line
    if "update" in kind:
        assert "stopped before the first checkpoint" in run.line
    else:
        newest = checkpoints(run.run_dir)[-1].step
        assert f"stopped after step {newest} with a checkpoint" in run.line


def test_lack_of_memory_in_the_old_log_probabilities(
    ended: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        return torch.empty(1 << 50)

    monkeypatch.setattr(Forwards, "before", fail)
    run = ended()
    assert run.status == 71
    assert "out of memory in the logprobs (" in run.line
    assert "you tried to allocate" in run.line
    assert "updates.micro_batch_tokens=" in run.line


def test_lack_of_memory_while_the_model_loads(
    policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    """With a real limit of the address space, set when the model begins to load."""
    program = """
import functools, resource, sys
from vlm_rl import fit
from vlm_rl.model.policy import Policy
load = Policy.from_pretrained
@functools.wraps(load)  # the parser reads its signature
def limited(*args, **kwargs):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 20),) * 2)
    return load(*args, **kwargs)
Policy.from_pretrained = staticmethod(limited)
fit.fit(sys.argv[1:])
"""
    argv = command(policy_folder, data_folder, tmp_path / "run")
    own = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", program, *argv], capture_output=True, text=True, env=own
    )
    [line] = re.findall(r"^vlm_rl\.fit: .*$", done.stderr, re.MULTILINE)
    assert done.returncode == 71, done.stderr
    assert "out of memory in the start (" in line
    assert "LoRA (policy.lora, now null)" in line
    assert "stopped before training, nothing was changed" in line


# ---- the rest of the table


def small_files(ended: Ending) -> Ended:
    """Run with files that cannot grow to the size of a checkpoint, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
        return ended()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


REST: dict[int, tuple[Callable[[Ending], Ended], str]] = {
    0: (lambda ended: ended(), ""),
    2: (lambda ended: ended(steps=0), "steps must be > 0, got 0"),
    3: (lambda ended: ended(**engine_of("key error", 0)), "failed with KeyError"),
    4: (lambda ended: ended(reward__terms=term_of("error", 0)), "failed with ZeroDivisionError"),
    74: (small_files, "File too large"),
}


@pytest.mark.parametrize("status", REST)
def test_other_endings(status: int, ended: Ending) -> None:
    make, words = REST[status]
    run = make(ended)
    assert run.status == status, run.err
    assert words in (run.line if words else "")


def test_error_of_our_own_keeps_its_traceback(
    policy_folder: Path, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's status for it is 1."""
    monkeypatch.setattr(Batching, "build", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(command(policy_folder, data_folder, tmp_path / "run", **QUICK))


def test_every_status_of_the_table_is_reached() -> None:
    """A status is in the table, in the module that gives it, and among the cases of this file."""
    rows = re.findall(r"^\| (\d+) \|", (REPOSITORY / "docs/runs.md").read_text(), re.MULTILINE)
    text = (REPOSITORY / "vlm_rl/run/exit_status.py").read_text()
    stated = re.findall(r"^(\d+) +\S", text, re.MULTILINE)
    hang = test_survival.test_hang_names_itself_and_ends_the_run
    assert "== 75" in inspect.getsource(hang)
    cases = {*REST, *SIGNALS.values(), 71, 1, 75}
    assert [int(row) for row in rows] == sorted(cases) == [int(number) for number in stated]
