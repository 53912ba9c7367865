"""Signals, hangs and full disks, in real processes: nothing that was complete is lost, one line, a
documented exit status, and the same command resumes bit for bit.

Mutations tried, each seen red:
    no _forget_step_in_progress -> ..._in_a_rollout...
    OwedWork without its validation, a second report of lengths -> ..._is_caught_up...
    UNINTERRUPTED empty, the Trainer's own handlers left -> ..._in_an_update...
    no forward hook in Heartbeat -> test_hang_names_itself...
    half-written files left on the disk -> test_full_disk...
    no os.access -> test_read_only...
    the worst for the best -> test_best...
    a cut row read -> test_row_cut_short...
    a new id at each start -> test_wandb...
    weights, keys or data not checked -> test_checkpoint_that_does_not_fit...
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.run.test_resume import STATEFUL
from tests.support.parameters import also_long
from tests.support.patience import until
from tests.support.places import SUPPORT
from tests.support.run_helpers import REPOSITORY, REWARD_TERMS, command
from vlm_rl.fit import fit
from vlm_rl.run.heartbeat import Beat, read_beats
from vlm_rl.run.metrics_csv import MetricsCsv, read_metrics
from vlm_rl.trackers import wandb_runs


class Forks:
    """A process that starts trainings without importing everything again."""

    def __init__(self) -> None:
        paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
        self.process = subprocess.Popen(
            [sys.executable, str(SUPPORT / "forked_runs.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=own | {"PYTHONPATH": paths},
            cwd=REPOSITORY,
        )

    def __call__(self, *request: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request, default=str) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


class Run:
    """A training that has been started; `beat_when` waits for it to be somewhere."""

    def __init__(
        self,
        forks: Forks,
        argv: list[str],
        run_dir: Path,
        num_ranks: int = 1,
        limit: int = 0,
        told: Sequence[object] = (),
    ) -> None:
        self.forks, self.run_dir = forks, run_dir
        self.log = run_dir.with_suffix(".log")
        self.log.unlink(missing_ok=True)
        if told:
            self.pids = forks("start_told", argv, self.log, *told)
        elif limit:
            self.pids = forks("start_with_small_files", argv, self.log, num_ranks, limit)
        else:
            self.pids = forks("start", argv, self.log, num_ranks)

    def beat_when(self, condition: Callable[[Beat], bool], rank: int = 0) -> Beat:
        """Return the first beat of a rank that fulfils `condition`."""
        met: list[Beat] = []

        def look() -> bool:
            beats = [b for b in read_beats(self.run_dir / "heartbeat") if b.pid == self.pids[rank]]
            met.extend(filter(condition, beats))
            return bool(met) or not os.path.exists(f"/proc/{self.pids[rank]}")

        until(look, every_s=0.002)
        assert met, self.log.read_text()
        return met[0]

    def send(self, number: int, rank: int = 0) -> None:
        """Wait for the end of all."""
        os.kill(self.pids[rank], number)
        self.end()

    def end(self) -> int:
        """Return the status of rank 0; `statuses` has all."""
        self.statuses: list[int] = [self.forks("wait", pid) for pid in self.pids]
        self.status = self.statuses[0]
        return self.status

    @property
    def line(self) -> str:
        """Return the only line of the program itself on stderr."""
        [line] = re.findall(r"^vlm_rl\.fit: .*$", self.log.read_text(), re.MULTILINE)
        assert "Traceback" not in self.log.read_text()
        return str(line)

    @property
    def checkpoints(self) -> set[str]:
        return {path.name for path in (self.run_dir / "checkpoints").iterdir()}


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("survival")


Start = Callable[..., Run]


@pytest.fixture(scope="module")
def start(forks: Forks, policy_folder: Path, data_folder: Path, root: Path) -> Start:
    """Start the training of this file, or one that differs in some keys."""

    def start(name: str | Path, *more: str, **overrides: object) -> Run:
        run_dir = root / name
        return Run(forks, command(policy_folder, data_folder, run_dir, *more, **overrides), run_dir)

    return start


@pytest.fixture(scope="module")
def whole(start: Start) -> Path:
    run = start("undisturbed", *STATEFUL)
    assert run.end() == 0
    return run.run_dir


def test_sigterm_in_a_rollout_saves_at_once_and_the_run_resumes_bit_for_bit(
    start: Start, forks: Forks, whole: Path
) -> None:
    run = start("in_a_rollout", *STATEFUL)
    beat = run.beat_when(lambda beat: beat.step >= 5 and beat.phase == "rollout")
    run.send(signal.SIGTERM)
    assert run.status == 0
    done = beat.step - 1
    assert re.search(rf"SIGTERM in the \w+: stopped after step {done} with a check", run.line)
    assert run.checkpoints >= {"step_3", f"step_{done}"}
    assert start("in_a_rollout", *STATEFUL).end() == 0
    assert forks("compare", run.run_dir, whole, 6) == []


@pytest.mark.parametrize("step", [3, also_long(6)])  # the last one too
@pytest.mark.long
def test_validation_that_sigterm_cuts_short_is_caught_up(
    step: int, start: Start, forks: Forks, whole: Path
) -> None:
    name = f"validation_{step}"
    run = start(name, *STATEFUL)
    run.beat_when(
        lambda beat: beat.step == step + 1 and beat.phase in ("validation", "weights", "rollout")
    )
    run.send(signal.SIGTERM)
    assert run.status == 0
    assert f"stopped after step {step} with a checkpoint" in run.line
    assert not (run.run_dir / "summary.json").exists()
    again = start(name, *STATEFUL)
    assert again.end() == 0, again.log.read_text()
    assert forks("compare", run.run_dir, whole, 6) == []
    assert (run.run_dir / "summary.json").exists()


def test_sigterm_in_an_update_waits_for_its_end(start: Start) -> None:
    run = start(
        "in_an_update",
        objective="tests.support.forked_runs.SlowUpdate",
        validation__every_n_steps=9,
    )
    # in step 1: "update" may still stand beside step 2 when that has begun
    run.beat_when(lambda beat: beat.step == 1 and beat.phase == "update")
    run.send(signal.SIGTERM)
    assert run.status == 0
    assert "SIGTERM in the update: stopped after step 1 with" in run.line


@pytest.mark.parametrize(("number", "status"), [(signal.SIGUSR1, 0), (signal.SIGINT, 130)])
@pytest.mark.long
def test_other_signals_save_too(number: signal.Signals, status: int, start: Start) -> None:
    run = start(number.name, validation__every_n_steps=9)
    beat = run.beat_when(lambda beat: beat.step >= 2 and beat.phase == "rollout")
    run.send(number)
    assert run.status == status
    assert number.name in run.line
    assert f"step_{beat.step - 1}" in run.checkpoints


def test_hang_names_itself_and_ends_the_run(start: Start) -> None:
    terms = REWARD_TERMS | {"even": {"class_path": "tests.support.forked_runs.HangsAtSecondStep"}}
    run = start(
        "hang",
        "--reward.terms",
        json.dumps(terms),
        engine="tests.support.forked_runs.SlowTokens",
        hang_timeout_s=4,
        data__val_problems=1,
        validation__greedy="false",
    )
    assert run.end() == 75
    text = run.log.read_text()
    assert "rank 0 has been silent for 4 s, in reward of step 1; stacks in" in text
    assert "resumes from the last checkpoint" in text
    stacks = (run.run_dir / "heartbeat/rank_0.stacks.txt").read_text()
    assert re.search(r'forked_runs.py", line \d+ in __call__', stacks)
    assert stacks in text


def test_hang_of_one_rank_shows_the_stacks_of_all(forks: Forks, tmp_path: Path) -> None:
    assert [forks("wait", pid) for pid in forks("two_ranks", tmp_path)] == [75, 75]
    for rank in range(2):
        stacks = (tmp_path / f"heartbeat/rank_{rank}.stacks.txt").read_text()
        assert "in rank" in stacks
    assert "rank 1 has been silent for 1 s" in (tmp_path / "1.log").read_text()
    assert "rank 0 ends because another rank is silent" in (tmp_path / "0.log").read_text()
    assert "rank 1 in starting of step 0" in (tmp_path / "0.log").read_text()


@pytest.mark.long
def test_random_kills_leave_no_trace(
    forks: Forks, whole: Path, policy_folder: Path, data_folder: Path
) -> None:
    run_dir = whole.with_name("killed")
    argv = command(policy_folder, data_folder, run_dir, *STATEFUL)
    steps = forks("kills", argv, run_dir, [0.4, 3.3, 4.2])
    # on a machine that is busier now than before or less, a moment may fall into a later step
    assert [step >= drawn for step, drawn in zip(steps, [1, 4, 5], strict=True)] == [True] * 3
    assert forks("compare", run_dir, whole, 6) == []


def test_full_disk_ends_in_one_line_and_loses_nothing(
    start: Start, forks: Forks, whole: Path, root: Path
) -> None:
    disk = root / "disk"
    disk.mkdir()
    one = sum(path.stat().st_size for path in (whole / "checkpoints/step_3").rglob("*"))
    size = int(1.6 * one)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small disk")
    try:
        run = start("disk/run", *STATEFUL)
        assert run.end() == 74, run.log.read_text()
        assert "No space left on device" in run.line
        assert "stopped after step 3 with a checkpoint" in run.line
        assert run.checkpoints - {"best"} == {"step_3"}
        subprocess.run(["mount", "-o", f"remount,size={10 * size}", str(disk)], check=True)
        assert start("disk/run", *STATEFUL).end() == 0
        assert forks("compare", run.run_dir, whole, 6) == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_read_only_folder_is_named_before_anything_is_loaded(
    forks: Forks, policy_folder: Path, data_folder: Path
) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    argv = command(policy_folder, data_folder, Path("/usr/runs/first"))
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own are closed to others
        Path(folder).chmod(0o777)
        log = Path(folder, "log")
        status = forks("wait", forks("as_nobody", argv, log))
        text = log.read_text()
    assert status == 2, text
    assert text.startswith("vlm_rl.fit: run_dir=/usr/runs/first: this user cannot write into /usr")
    assert len(text.splitlines()) == 1


def test_best_checkpoint_is_kept_and_linked(
    policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    terms = REWARD_TERMS | {"accuracy": {"class_path": "tests.support.run_helpers.FirstTokenEven"}}
    module = fit(
        command(
            policy_folder,
            data_folder,
            run_dir,
            "--reward.terms",
            json.dumps(terms),
            checkpoint__every_n_steps=100,
            checkpoint__keep_last=1,
            validation__every_n_steps=1,
            optimizer__lr=1e-2,
            seed=2,
        )
    )
    scores = {int(row["step"]): row["val/accuracy"] for row in module.validation_history}
    trained = {step: score for step, score in scores.items() if step > 0}
    best = max(trained, key=lambda step: trained[step])  # the first of equal ones
    assert scores[best] > scores[0], "otherwise no best checkpoint would be saved"
    assert best < 6, scores
    names = {path.name for path in (run_dir / "checkpoints").iterdir()}
    assert names == {"best", f"step_{best}", "step_6"}
    assert (run_dir / "checkpoints/best").resolve().name == f"step_{best}"
    files = json.loads((run_dir / "summary.json").read_text())["files"]
    assert files["checkpoint"] == str(run_dir / "checkpoints/step_6/hf")
    assert files["best_checkpoint"] == str(run_dir / f"checkpoints/step_{best}/hf")


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, Path], None]:
    def edit(checkpoint: Path, data: Path) -> None:
        saved = torch.load(checkpoint, weights_only=True)
        change(saved)
        torch.save(saved, checkpoint)

    return edit


def _one_problem_less(checkpoint: Path, data: Path) -> None:
    rows = (data / "train.jsonl").read_text().splitlines(keepends=True)
    (data / "train.jsonl").write_text("".join(rows[:-1]))


WEIGHT = "policy.model.model.language_model.embed_tokens.weight"
DOES_NOT_FIT = {
    "another model": (
        _edit(lambda c: c["state_dict"].update({WEIGHT: torch.zeros(3, 4)})),
        "has shape [3, 4] in the checkpoint",
    ),
    "more layers": (
        _edit(lambda c: c["state_dict"].update(more=torch.zeros(1))),
        "only the checkpoint has more",
    ),
    "older version": (
        _edit(lambda c: c["vlm_rl"].pop("refill_position")),
        "was written by another version: it lacks refill_position",
    ),
    "another data set": (_one_problem_less, "the training data has changed since: 1 row gone"),
}


@pytest.fixture(scope="module")
def short(policy_folder: Path, data_folder: Path, root: Path) -> Path:
    """Return a folder with data and a run of one step on it."""
    shutil.copytree(data_folder, root / "short/data")
    fit(_short(policy_folder, root / "short", steps=1))
    return root / "short"


def _short(policy: Path, folder: Path, steps: int) -> list[str]:
    keys = {"validation.every_n_steps": 9, "data.val_problems": 1, "steps": steps}
    return command(policy, folder / "data", folder / "run", **keys)


@pytest.mark.parametrize("kind", DOES_NOT_FIT)
def test_checkpoint_that_does_not_fit_is_refused_in_one_line(
    kind: str, short: Path, policy_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = shutil.copytree(short, short.with_name("before"))
    change, reason = DOES_NOT_FIT[kind]
    change(short / "run/checkpoints/step_1/trainer.ckpt", short / "data")
    try:
        with pytest.raises(SystemExit) as raised:
            fit(_short(policy_folder, short, steps=2))
    finally:
        shutil.rmtree(short)
        before.rename(short)
    assert raised.value.code == 2
    [line] = re.findall(r"^vlm_rl\.fit: .*$", capfd.readouterr().err, re.MULTILINE)
    assert reason in line
    assert "checkpoints/step_1/trainer.ckpt" in line


def test_row_cut_short_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,a\n1.0,0.25\n2.0,0.5\n3.0,0.1")
    MetricsCsv(tmp_path, 3)
    assert read_metrics(tmp_path / "metrics.csv") == [
        {"step": 1.0, "a": 0.25},
        {"step": 2.0, "a": 0.5},
    ]


def test_wandb_run_keeps_its_id(tmp_path: Path) -> None:
    [first], [second] = (wandb_runs(tmp_path, "offline", "p", {}, one_run=True) for _ in range(2))
    [other] = wandb_runs(tmp_path / "other", "offline", "p", {}, one_run=True)
    assert first.version == second.version
    assert first.version != other.version
