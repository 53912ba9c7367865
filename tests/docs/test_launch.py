"""The Dockerfile and the scripts that start a run elsewhere: linted, and torchrun's run for real.

There is no Docker and no SLURM here. What of the Dockerfile can be checked without is its syntax,
its shell and the files that it copies.

Broken on purpose, one at a time, each seen red: a folder left out of .dockerignore; `RUN cd`; a
variable without quotes; a variable that is not asked for.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.places import REPOSITORY
from tests.support.run_helpers import command
from vlm_rl.run.metrics_csv import read_metrics

DOCKERFILE = REPOSITORY / ".docker" / "Dockerfile"
SCRIPTS = sorted((REPOSITORY / "docs" / "launch").glob("*.sh"))
BIN = Path(sys.executable).parent


def lint(tool: str, *arguments: str) -> None:
    found = subprocess.run([BIN / tool, *arguments], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    lint("hadolint", str(DOCKERFILE))


@pytest.mark.parametrize("script", [*SCRIPTS, REPOSITORY / ".ci" / "run"], ids=lambda s: s.name)
def test_shellcheck_finds_nothing_in_the_scripts(script: Path) -> None:
    lint("shellcheck", str(script))
    assert os.access(script, os.X_OK)


def test_the_dockerfile_copies_what_is_there_and_sent() -> None:
    """Docker sees of the repository only what .dockerignore lets through."""
    lines = re.findall(r"^COPY (.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    copied = {name for line in lines for name in line.split()}
    sent = set(re.findall(r"^!(.+)$", (REPOSITORY / ".dockerignore").read_text(), re.MULTILINE))
    assert copied == sent
    assert all((REPOSITORY / name).exists() for name in copied)


def test_the_dockerfile_installs_extras_that_exist() -> None:
    [extras] = re.findall(r"^ARG EXTRAS=(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    project = (REPOSITORY / "pyproject.toml").read_text()
    for extra in extras.split(","):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


@pytest.mark.long
def test_torchrun_script_trains_on_two_processes(
    policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    changes = {
        "reward.terms": json.dumps(
            {
                "accuracy": {"class_path": "tests.support.run_helpers.FirstTokenEven"},
                "even": {"class_path": "tests.support.run_helpers.EvenTokens"},
            }
        ),
        "trainer.strategy": "ddp",
    }
    argv = command(policy_folder, data_folder, tmp_path / "run", steps=1, **changes)
    environment = os.environ | {
        "PROCESSES": "2",
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }
    script = REPOSITORY / "docs" / "launch" / "torchrun.sh"
    ended = subprocess.run(
        [script, *argv], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    steps = [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.csv")]
    assert steps.count(1.0) >= 1
    written = {path.name for path in (tmp_path / "run" / "rollouts").iterdir()}
    assert written == {f"step_000001_rank_{rank}.jsonl" for rank in (0, 1)}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PROCESSES": "2", "NODES": "2"}, "NODE_RANK: set it to the number"),
        ({"PROCESSES": "2", "NODES": "2", "NODE_RANK": "0"}, "FIRST_NODE: set it to the host"),
        ({}, "set PROCESSES"),
    ],
)
def test_torchrun_script_says_which_variable_is_missing(
    variables: dict[str, str], said: str, tmp_path: Path
) -> None:
    script = REPOSITORY / "docs" / "launch" / "torchrun.sh"
    # a folder without nvidia-smi
    environment = {"PATH": str(tmp_path), **variables}
    ended = subprocess.run(
        ["/bin/bash", script], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode != 0
    assert said in ended.stderr
