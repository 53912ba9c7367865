"""How evaluate, study, verify, ask and serve end by a signal, a full disk or a lack of memory: a
status of the table in docs/runs.md, one line, and nothing left behind.

Real signals, sent when a program has come to a place, not after seconds.

Broken on purpose, one at a time, each seen red: status 0 for Ctrl-C too; no `starting.over`; SIGHUP
not ignored once heard; runs of a study killed instead of told, or not bound to it; a run that was
stopped counted as finished; half-prepared data taken for whole; a buffered read in
`die_with_parent`; checkers in the group of their parent.
"""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from measurements.kill_reports import command_of, output_of
from measurements.kill_while_writing import file_differences
from tests.run.test_endings import SIGNALS, hear_before, loads
from tests.run.test_survival import Forks
from tests.support.parameters import also_long
from tests.support.patience import until
from tests.support.places import CONFIGS, REPOSITORY, TINY_POLICY
from vlm_rl import ask, evaluate, serve, verify
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.evaluate import asking, reporting
from vlm_rl.model.policy import Policy
from vlm_rl.rewards import Accuracy
from vlm_rl.rollout import TransformersEngine, VLLMServer
from vlm_rl.rollout.vllm import gate
from vlm_rl.run.folder import checkpoints
from vlm_rl.study import study
from vlm_rl.verification.pool import CheckerPool

PROGRAMS = ("evaluate", "study", "verify", "ask", "serve", "fit")


class Ended(NamedTuple):
    status: int
    lines: list[str]

    @property
    def line(self) -> str:
        [line] = self.lines
        return line


Ending = Callable[..., Ended]


@pytest.fixture
def ended(capfd: pytest.CaptureFixture[str]) -> Ending:
    """Return a function that runs a program in this process to its end."""

    def ended(program: Callable[[], object]) -> Ended:
        status, before = 0, psutil.Process().children()  # of other tests, such as W&B's
        try:
            program()
        except SystemExit as raised:
            status = raised.code if isinstance(raised.code, int) else -1
        err = capfd.readouterr().err
        assert "Traceback" not in err
        assert not set(psutil.Process().children()) - {*before}, "a child is left"
        return Ended(status, re.findall(r"^vlm_rl\.\w+: .*$", err, re.MULTILINE))

    return ended


def start(*words: str, **how: Any) -> subprocess.Popen[bytes]:
    own = os.environ | {"PYTHONPATH": str(REPOSITORY)} | how.pop("env", {})
    command = [sys.executable, "-m", *words]
    return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, env=own, **how)


# ---- before the program


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("program", PROGRAMS)
def test_signal_while_a_program_imports(program: str, number: signal.Signals) -> None:
    process = start(f"vlm_rl.{program}")
    loads(process, "libtorch")
    process.send_signal(number)
    _, err = process.communicate()
    line = f"vlm_rl.{program}: {number.name} in the start: stopped before it began, nothing was ch"
    assert err.decode().startswith(line)
    assert err.count(b"\n") == 1
    assert process.returncode == SIGNALS[number]


def test_signal_to_a_process_that_is_leaving_changes_nothing(tmp_path: Path) -> None:
    """The second ends what hangs."""
    answers = command_of("verify", tmp_path)
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, signal\n"
        "def leave():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('went on', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "atexit.register(leave)\n"
    )
    own = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    process = start("vlm_rl.verify", *answers, env=own, stdout=subprocess.PIPE)
    out, err = process.communicate()
    assert (out.splitlines()[-1], err) == (b"went on", b"")
    assert process.returncode == -signal.SIGTERM


# ---- evaluate


class Evaluation(NamedTuple):
    argv: list[str]
    whole: Path

    def __call__(self, output: Path, *more: str) -> Callable[[], None]:
        return lambda: evaluate.evaluate([*self.argv, output_of("evaluate", output), *more])


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    folder = tmp_path_factory.mktemp("evaluation")
    undisturbed = Evaluation(command_of("evaluate", folder), folder / "whole")
    undisturbed(undisturbed.whole)()
    return undisturbed


BEFORE: dict[str, tuple[Any, str]] = {
    "encoder": (PromptEncoder, "__init__"),
    "model": (Policy, "from_pretrained"),
    "answers": (TransformersEngine, "generate"),
    "self test": (Accuracy, "self_test"),
    "judging": (reporting, "judge"),
    "report": (reporting, "write_report"),
}


@pytest.mark.parametrize(
    ("place", "number"),
    [
        pytest.param(place, number, marks=[] if short else pytest.mark.long)
        for place in BEFORE
        for number in SIGNALS
        for short in [number == signal.SIGINT or place == "answers"]
    ],
)
def test_stopped_evaluation_keeps_its_responses_and_resumes(
    place: str,
    number: signal.Signals,
    evaluation: Evaluation,
    ended: Ending,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        hear_before(patch, *BEFORE[place], number)
        run = ended(evaluation(output))
    assert run.status == SIGNALS[number]
    kept = f"the responses so far are kept in {output}, the same command resumes"
    assert run.line == f"vlm_rl.evaluate: {number.name}: {kept}"
    assert not (output / "lock").exists()
    assert not [*output.rglob("*.partial")]
    if number == signal.SIGINT:
        assert ended(evaluation(output)).status == 0
        assert not [*file_differences(output, evaluation.whole)]


def test_evaluation_that_is_stopped_in_its_start_leaves_nothing(
    evaluation: Evaluation, ended: Ending, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    hear_before(monkeypatch, asking, "load", signal.SIGINT)
    run = ended(evaluation(output))
    assert run == Ended(130, ["vlm_rl.evaluate: SIGINT: stopped, nothing was changed"])
    assert not output.exists()


def test_second_hangup_does_not_end_what_is_cleaned_up(
    evaluation: Evaluation, ended: Ending, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear_before(monkeypatch, TransformersEngine, "generate", signal.SIGHUP)
    hear_before(monkeypatch, TransformersEngine, "close", signal.SIGHUP)
    assert ended(evaluation(tmp_path / "out")).line.startswith("vlm_rl.evaluate: SIGHUP: the resp")


def test_lack_of_memory_says_what_to_lower(
    evaluation: Evaluation, ended: Ending, tmp_path: Path
) -> None:
    engine = [
        "--engine=tests.support.broken_parts.BrokenEngine",
        "--engine.init_args.fault=memory",
        "--engine.init_args.good_calls=1",
    ]
    run = ended(evaluation(tmp_path / "out", *engine))
    assert run.status == 71
    assert "out of memory (CUDA out of memory" in run.line
    assert "try --batch_problems 2 (now 4), or --sampling.max_completion_tokens 6 (now" in run.line
    assert f"the responses so far are kept in {tmp_path / 'out'}" in run.line


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Yield a function that limits the size of files, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_full_disk_ends_an_evaluation_in_one_line(
    evaluation: Evaluation, ended: Ending, tmp_path: Path, small_files: Callable[[int], None]
) -> None:
    output = tmp_path / "out"
    small_files(8_000)  # less than the plots
    run = ended(evaluation(output))
    assert run.status == 74
    assert re.search(rf"cannot write {output}/.*: File too large; the responses so far", run.line)
    assert not [*output.rglob("*.partial")]


# ---- verify and ask


def test_full_disk_ends_a_verification_in_one_line(
    ended: Ending, tmp_path: Path, small_files: Callable[[int], None]
) -> None:
    [answers] = command_of("verify", tmp_path)
    small_files(500)  # less than the verdicts
    run = ended(lambda: verify.main([answers]))
    assert run.status == 74
    assert re.search(r"verdicts\.jsonl: File too large; stopped, nothing was changed", run.line)
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]


@pytest.mark.parametrize("number", SIGNALS)
def test_stopped_verification_writes_nothing(
    number: signal.Signals, ended: Ending, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its checkers are at work."""
    answers = tmp_path / "answers.jsonl"
    answers.write_text(json.dumps({"gold": r"\sqrt{2}", "prediction": "2^{1/2}"}) + "\n")
    hear_before(monkeypatch, CheckerPool, "_collect", number)
    run = ended(lambda: verify.main([str(answers)]))
    line = f"vlm_rl.verify: {number.name}: stopped, nothing was changed"
    assert run == Ended(SIGNALS[number], [line])
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]


@pytest.mark.parametrize("number", SIGNALS)
def test_stopped_question_has_no_answer(
    number: signal.Signals, ended: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["ask", f"--model={TINY_POLICY}", "--question=Why?"])
    hear_before(monkeypatch, TransformersEngine, "generate", number)
    line = f"vlm_rl.ask: {number.name}: stopped, nothing was changed"
    assert ended(ask.main) == Ended(SIGNALS[number], [line])


# ---- study


def slow_study(folder: Path) -> list[str]:
    """Return a study of two runs that do not end by themselves, one after the other."""
    argv = command_of("study", folder)
    shared = next(a for a in argv if a.startswith("--shared=")).removeprefix("--shared=")
    endless = json.loads(shared) | {"steps": 10_000}
    return [*argv, f"--shared={json.dumps(endless)}", "--parallel=1", f"--output={folder}/out"]


def at_step_two(folder: Path, call: Callable[[], object]) -> threading.Thread:
    """Call something once the first run of a study has done a step."""

    def wait() -> None:
        until(lambda: (folder / "out/all/GSPO-0/rollouts/step_000002.jsonl").exists())
        call()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.long
def test_stopped_study_saves_its_runs_and_starts_no_other(ended: Ending, tmp_path: Path) -> None:
    argv = slow_study(tmp_path)
    watch = at_step_two(tmp_path, lambda: os.kill(os.getpid(), signal.SIGINT))
    run = ended(lambda: study(argv))
    watch.join()
    kept = f"what is done is kept in {tmp_path}/out, the same command goes on"
    assert run == Ended(130, [f"vlm_rl.study: SIGINT: {kept}"])
    assert checkpoints(tmp_path / "out/all/GSPO-0")
    log = (tmp_path / "out/all/GSPO-0.log").read_text()
    assert "vlm_rl.fit: SIGTERM in the" in log
    assert "the same command resumes" in log
    assert not (tmp_path / "out/all/LUSPO-0").exists()


@pytest.mark.long
def test_runs_of_a_killed_study_end_with_it(tmp_path: Path) -> None:
    """So that the same command finds their folders free."""
    forks = Forks()
    log = tmp_path / "study.log"
    [process] = forks("start_program", "study", slow_study(tmp_path), log)
    lock = tmp_path / "out/all/GSPO-0/lock"
    until(lambda: lock.exists() and lock.read_text().endswith("}"))
    run = psutil.Process(json.loads(lock.read_text())["pid"])
    os.kill(process, signal.SIGKILL)
    until(lambda: not run.is_running() or run.status() == psutil.STATUS_ZOMBIE)
    assert forks("wait", process) == -signal.SIGKILL
    forks.process.kill()
    forks.process.wait()


@pytest.mark.long
def test_run_that_was_stopped_alone_is_no_finished_one(ended: Ending, tmp_path: Path) -> None:
    argv = [*slow_study(tmp_path), "--only_variants=[GSPO]"]

    def stop() -> None:
        pid = json.loads((tmp_path / "out/all/GSPO-0/lock").read_text())["pid"]
        os.kill(pid, signal.SIGTERM)

    watch = at_step_two(tmp_path, stop)
    run = ended(lambda: study(argv))
    watch.join()
    assert run.status == 1
    assert "all GSPO seed 0 ended with 0: vlm_rl.fit: SIGTERM in the" in run.line


def test_data_of_a_stopped_preparation_is_made_again(
    ended: Ending, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, maker = tmp_path / "made", tmp_path / "maker.py"
    maker.write_text(
        "import os, pathlib, signal, sys\n"
        f"made = pathlib.Path({str(made)!r})\n"
        "if not made.exists():\n"
        "    made.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "made.write_text('whole')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    argv = [*command_of("study", tmp_path), f"--output={tmp_path}/out"]
    argv += [f"--prepare={json.dumps({str(made): 'maker'})}", "--only_variants=[GSPO]"]
    monkeypatch.setattr("vlm_rl.study._run_all", lambda *_: [])
    first = ended(lambda: study(argv))
    line = f"vlm_rl.study: prepare.{made}: python -m maker ended with status -9"
    assert first == Ended(1, [line])
    assert ended(lambda: study(argv)) == Ended(0, [])
    assert made.read_text() == "whole"
    assert not [*tmp_path.glob("*.partial")]


# ---- serve


def serving(port: str) -> list[str]:
    return [
        *(f"--config={CONFIGS / 'quickstart.yaml'}", f"--policy.path={TINY_POLICY}"),
        *("--engine=vlm_rl.rollout.VLLMServer", f"--port={port}"),
    ]


@pytest.mark.parametrize("number", [also_long(signal.SIGINT), signal.SIGTERM])
def test_stopped_server_leaves_neither_processes_nor_files(
    number: signal.Signals, tmp_path: Path
) -> None:
    pytest.importorskip("vllm")
    own = {gate.VARIABLE: gate.new_token(), "TMPDIR": str(tmp_path)}
    process = start("vlm_rl.serve", *serving("0"), env=own, stdout=subprocess.PIPE)
    assert process.stdout
    assert b"a vLLM server for" in process.stdout.readline()
    serve = psutil.Process(process.pid)
    until(lambda: len(serve.children(recursive=True)) > 1)
    servers = serve.children(recursive=True)
    process.send_signal(number)
    _, err = process.communicate()
    lines = re.findall(r"^vlm_rl\.serve: .*$", err.decode(), re.MULTILINE)
    assert lines == [f"vlm_rl.serve: {number.name}: the server has ended"]
    assert b"Traceback" not in err
    assert process.returncode == SIGNALS[number]
    assert not [one for one in servers if one.is_running() and one.status() != "zombie"]
    assert not [*tmp_path.glob("vlm_rl_serve_*")]


def test_server_that_ends_by_itself_is_named(
    ended: Ending, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv(gate.VARIABLE, gate.new_token())
    monkeypatch.setattr("sys.argv", ["serve", *serving("1")])
    fails = [sys.executable, "-c", "raise SystemExit(5)"]
    monkeypatch.setattr(VLLMServer, "command", lambda *_: fails)
    line = "vlm_rl.serve: the server has ended by itself with status 5"
    assert ended(serve.main) == Ended(3, [line])
    assert not [*tmp_path.glob("vlm_rl_serve_*")]


# ---- Ctrl-C at a terminal, which all processes of the group hear


def test_interrupt_of_all_processes_gives_one_line(tmp_path: Path) -> None:
    forks, log, answers = Forks(), tmp_path / "log", tmp_path / "answers.jsonl"
    rows = [{"gold": rf"\sqrt{{{n}}}", "prediction": f"{n}^{{1/2}}"} for n in range(2, 20_000)]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    [process] = forks("start_program", "verify", [str(answers)], log)
    own = psutil.Process(process)
    until(lambda: bool(own.children()))
    os.killpg(process, signal.SIGINT)
    assert forks("wait", process) == 130
    text = log.read_text()
    assert "Traceback" not in text
    assert len(re.findall(r"^vlm_rl\.verify: SIGINT: ", text, re.MULTILINE)) == 1
    with pytest.raises(ProcessLookupError):
        os.killpg(process, 0)
    forks.process.kill()
    forks.process.wait()
