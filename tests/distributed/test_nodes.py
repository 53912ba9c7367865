"""Processes that others have started, torchrun or SLURM, on nodes that share a folder or do not.

Real processes over gloo, with the variables that SLURM would set; there is no SLURM here. Runs of
torchrun itself, on two nodes: `measurements/two_nodes.py`.

Broken on purpose, one at a time, each seen red: `Heartbeat._refuse_own_folders` not called;
`ranks.launched` that knows no torchrun.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.places import REPOSITORY
from tests.support.run_helpers import command
from vlm_rl.fit import fit

LAUNCHED = """
import json, os, sys
import vlm_rl
from lightning.pytorch.utilities import rank_zero_only
from vlm_rl.fit import fit

def status(rank, argv, port):
    os.environ |= {
        "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "2", "SLURM_PROCID": str(rank), "SLURM_LOCALID": "0",
        "SLURM_NODEID": str(rank), "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": str(port),
    }
    rank_zero_only.rank = rank  # Lightning reads SLURM_PROCID when it is imported
    try:
        fit(argv)
    except SystemExit as end:
        return end.code
    return 0

def start(rank, argv, port):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        code = status(rank, argv, port)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

for port, argvs in json.load(sys.stdin):
    children = [start(rank, argv, port) for rank, argv in enumerate(argvs)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print("statuses", *codes, flush=True)
"""


def _launched(*runs: list[list[str]]) -> subprocess.CompletedProcess[str]:
    """Start each run's two command lines, one after the other run."""
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        ports = [free.getsockname()[1] for free in (first, second)]
    return subprocess.run(
        [sys.executable, "-c", LAUNCHED],
        input=json.dumps(list(zip(ports, runs, strict=True))),
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )


@pytest.mark.long
def test_slurm_run_is_one_run_and_needs_one_folder(
    policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    more = ("--trainer.num_nodes=2", "--trainer.strategy=ddp", "--hang_timeout_s=20")
    argv, own = (
        command(policy_folder, data_folder, tmp_path / name, *more, steps=1)
        for name in ("shared", "own")
    )
    other = command(policy_folder, data_folder, tmp_path / "other", *more, steps=1)
    done = _launched([argv, argv], [own, other])
    assert done.stdout.splitlines()[-1] == "statuses 2 2", done.stderr[-4000:]
    assert "statuses 0 0" in done.stdout, done.stderr[-4000:]
    assert done.stdout.count("step 1/1 ") == 1
    refusals = [line for line in done.stderr.splitlines() if "one folder for all" in line]
    assert len(refusals) == 1
    assert refusals[0].startswith(f"vlm_rl.fit: run_dir={tmp_path / 'own'} must be one folder")
    assert "does not find there what rank 1 on" in refusals[0]
    assert not (tmp_path / "own" / "metrics.csv").read_text().count("\n1.0,")


def test_other_number_of_processes_than_launched_is_refused(
    policy_folder: Path,
    data_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two runs in one folder otherwise: one device needs no strategy that would ask."""
    launch = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    for name, value in launch.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        fit(command(policy_folder, data_folder, tmp_path / "run"))
    assert end.value.code == 2
    line = capsys.readouterr().err.strip()
    assert "torchrun has started 2 processes, but trainer.num_nodes=1 and trainer.devices=1" in line
    assert "\n" not in line
    assert not (tmp_path / "run").exists()
