"""A reward term of a user's own is checked where its values enter, and named.

Mutations tried, each seen red: no check of the dtype; `~isnan()` in place of `isfinite()`.
"""

import json
import re
from pathlib import Path

import pytest
import torch

from tests.support.broken_parts import REWARD_FAULTS, BrokenReward
from tests.support.run_helpers import REWARD_TERMS, UntestedAccuracy, command
from vlm_rl.fit import fit
from vlm_rl.parts import PartError
from vlm_rl.records import Completion, Problem
from vlm_rl.rewards import Reward
from vlm_rl.run.folder import checkpoints

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
    "os error": "No such file or directory: 'table.json'",
}


@pytest.mark.parametrize("fault", REWARD_FAULTS)
def test_broken_term_is_named_in_one_line(fault: str) -> None:
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
