"""A reward term of a user's own is checked where its values enter, and named.

Mutations tried, each seen red: no check of the dtype; `~isnan()` in place of `isfinite()`; a child
not ended; os._exit left as it is; the working directory not compared; a closed stdout left closed;
classes built without `undisturbed`.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.broken_parts import HARMLESS, REWARD_FAULTS, BrokenReward
from tests.support.run_helpers import REWARD_TERMS, UntestedAccuracy, command
from vlm_rl.fit import fit
from vlm_rl.parts import PartError
from vlm_rl.records import Completion, Problem
from vlm_rl.rewards import Reward
from vlm_rl.run.folder import checkpoints
from vlm_rl.run.metrics_csv import read_metrics

SAYS = {
    "nan": "must return finite values, got nan for completion 1 of problem 'p-0', one of 1 such",
    "infinite": "got inf for completion 1 of problem 'p-0'",
    "shape": "a float64 tensor of shape [2, 2], got float64 of shape [2, 1]",
    "flat": "got float64 of shape [4]",
    "float32": "got float32 of shape [2, 2]",
    "list": "got list",
    "nothing": "got NoneType",
    "graph": "with a gradient graph; return values.detach()",
    "error": "failed with ZeroDivisionError: division by zero",
    "exit": "failed with exit(7)",
    "_exit": "failed with exit(7)",
    "closes": "has closed stdout; leave the process as it was",
    "closes object": "has closed stdout; leave the process as it was",
    "moves": "has changed the working directory from",
    "os error": "No such file or directory: 'table.json'",
}


@pytest.mark.parametrize("fault", REWARD_FAULTS)
def test_broken_term_is_named_in_one_line(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", os.fdopen(os.dup(1), "w"))  # one that may be closed
    folder = Path.cwd()
    problems = [Problem(f"p-{i}", "How many?", "5", answer_type="number") for i in range(2)]
    answer = Completion(torch.zeros(3, dtype=torch.int64), torch.zeros(3), "stop", r"\boxed{5}")
    groups = [[answer, answer], [answer, answer]]
    terms = {"accuracy": UntestedAccuracy(), "own": BrokenReward(fault, good_calls=1)}
    with Reward(terms) as reward:
        assert reward(problems, groups).total.shape == (2, 2)
        with pytest.raises(PartError) as raised:
            reward(problems, groups)
    line = str(raised.value)
    assert line.startswith("reward term own tests.support.broken_parts.BrokenReward")
    assert SAYS[fault] in line
    assert Path.cwd() == folder
    os.fstat(1)
    print("still open", flush=True)


@pytest.mark.parametrize("fault", HARMLESS)
def test_child_that_comes_back_from_a_part_ends_there(
    fault: str, policy_folder: Path, data_folder: Path, tmp_path: Path, capfd: Any
) -> None:
    """The run goes on, its files are written once, and it ends as if nothing had been."""
    folders = {2: tmp_path / "forks", 10**6: tmp_path / "plain"}
    for good_calls, folder in folders.items():
        init = {"fault": fault, "good_calls": good_calls}
        own = {"class_path": "tests.support.broken_parts.BrokenReward", "init_args": init}
        terms = f"--reward.terms={json.dumps({**REWARD_TERMS, 'own': own})}"
        fit(command(policy_folder, data_folder, folder, terms, steps=3, data__val_problems=1))
    lines = set(re.findall(r"^reward term own .*$", capfd.readouterr().err, re.MULTILINE))
    assert lines == {
        "reward term own tests.support.broken_parts.BrokenReward has forked, and its child "
        "returned; the child ends here, the run goes on"
    }
    files = [sorted(p.relative_to(f) for p in f.rglob("*")) for f in folders.values()]
    assert files[0] == files[1]
    rows = [read_metrics(folder / "metrics.csv") for folder in folders.values()]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]


def test_class_that_ends_the_process_or_forks_is_named(
    policy_folder: Path, data_folder: Path, tmp_path: Path, capfd: Any
) -> None:
    """At the start, where classes are built."""
    for fault, status, words in (
        ("exit", 2, "a class of the configuration has called exit(7)"),
        ("moves", 4, "a class of the configuration has changed the working directory"),
    ):
        init = {"fault": fault}
        own = {"class_path": "tests.support.broken_parts.BrokenWhenBuilt", "init_args": init}
        terms = f"--reward.terms={json.dumps({**REWARD_TERMS, 'own': own})}"
        with pytest.raises(SystemExit) as raised:
            fit(command(policy_folder, data_folder, tmp_path / "run", terms))
        assert raised.value.code == status
        [line] = re.findall(r"^vlm_rl\.fit: .*$", capfd.readouterr().err, re.MULTILINE)
        assert words in line
        assert not (tmp_path / "run").exists()


def test_run_ends_with_a_checkpoint_and_one_line(
    policy_folder: Path, data_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = {
        "class_path": "tests.support.broken_parts.BrokenReward",
        "init_args": {"fault": "error", "good_calls": 5},
    }
    keys = {"validation.every_n_steps": 9, "data.val_problems": 1}
    terms = f"--reward.terms={json.dumps({**REWARD_TERMS, 'own': own})}"
    with pytest.raises(SystemExit) as raised:
        fit(command(policy_folder, data_folder, tmp_path / "run", terms, **keys))
    assert raised.value.code == 4
    [line] = re.findall(r"^vlm_rl\.fit: .*$", capfd.readouterr().err, re.MULTILINE)
    assert "reward term own" in line
    assert "ZeroDivisionError" in line
    newest = checkpoints(tmp_path / "run")[-1]
    assert f"stopped after step {newest.step} with a checkpoint" in line
    assert "broken_parts.py" in (tmp_path / "run" / "error.log").read_text()
