"""An engine of a user's own is checked where its completions enter, and named.

Mutations tried, each seen red: no check of a log-probability's sign; `token < size + 10**8`;
the counts of completions not compared; `named` without SystemExit.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support import broken_parts
from tests.support.broken_parts import BrokenEngine
from tests.support.run_helpers import command
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.fit import fit
from vlm_rl.model.policy import Policy
from vlm_rl.rollout import EngineError, Sampling, contract
from vlm_rl.run.folder import checkpoints

SAYS = {
    "nan": "log-probability nan, which must be finite and at most 0",
    "infinite": "log-probability -inf",
    "positive": "log-probability 0.5",
    "outside": "token 10000000, outside the vocabulary of",
    "negative": "token -1, outside the vocabulary",
    "placeholder": "a vision placeholder, which must never be sampled",
    "fewer": "must return 4 completions of problem 'p-7', got 3",
    "more": "must return 4 completions of problem 'p-7', got 5",
    "group missing": "a list of groups, one per prompt, got 1 for 2",
    "nothing": "a list of groups, one per prompt, got NoneType",
    "texts": "completion 0 of problem 'p-7' is no Completion but str",
    "reason": "finish_reason 'tired', which must be stop or length",
    "longer": "above sampling.max_completion_tokens=3",
    "ragged": "failed with ValueError: sampling_logprobs must be float32",
    "half": "failed with ValueError: sampling_logprobs must be float32",
    "not text": "has a text of type NoneType",
    "os error": "failed with OSError: [Errno 5] Input/output error",
    "key error": "failed with KeyError: 'uid'",
    "exit": "failed with exit(7)",
}


@pytest.fixture(scope="module")
def parts(policy_folder: Path) -> tuple[Policy, PromptEncoder, Any]:
    from tests.support.tiny import problem

    encoder = PromptEncoder(str(policy_folder))
    asked = [encoder.encode(problem("What is 2 + 3?", uid=uid)) for uid in ("p-7", "p-8")]
    return Policy.from_pretrained(str(policy_folder)), encoder, asked


@pytest.mark.parametrize("fault", SAYS)
def test_broken_engine_is_named_in_one_line(
    parts: tuple[Policy, PromptEncoder, Any], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, encoder, asked = parts
    allowed, sampling = contract.AllowedTokens.of(policy), Sampling(max_completion_tokens=3)
    monkeypatch.setattr(broken_parts, "PLACEHOLDER", [min(allowed.banned)])
    engine = BrokenEngine(fault, good_calls=1)
    engine.start(policy, encoder, sampling)
    how = {"group_size": 4, "sampling": sampling, "seed": 1}
    assert len(contract.sample(engine, allowed, asked, **how)) == 2
    with pytest.raises(EngineError) as raised:
        contract.sample(engine, allowed, asked, **how)
    line = str(raised.value)
    assert line.startswith("engine tests.support.broken_parts.BrokenEngine")
    assert SAYS[fault] in line


@pytest.mark.parametrize("fault", ["positive", "key error"])
def test_run_ends_with_a_checkpoint_and_one_line(
    policy_folder: Path,
    data_folder: Path,
    tmp_path: Path,
    fault: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    keys = {
        "engine": "tests.support.broken_parts.BrokenEngine",
        "engine.init_args.fault": fault,
        "engine.init_args.good_calls": 5,
        "validation.every_n_steps": 9,
        "data.val_problems": 1,
    }
    with pytest.raises(SystemExit) as raised:
        fit(command(policy_folder, data_folder, tmp_path / "run", **keys))
    assert raised.value.code == 3
    [line] = re.findall(r"^vlm_rl\.fit: .*$", capfd.readouterr().err, re.MULTILINE)
    assert SAYS[fault] in line
    newest = checkpoints(tmp_path / "run")[-1]
    assert f"stopped after step {newest.step} with a checkpoint" in line
    assert (tmp_path / "run" / "error.log").exists() == (fault == "key error")


def test_half_a_character_in_a_text_does_not_end_the_run(
    policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    keys = {
        "engine": "tests.support.broken_parts.BrokenEngine",
        "engine.init_args.fault": "surrogate",
        "engine.init_args.good_calls": 0,
        "validation.every_n_steps": 1,
        "data.val_problems": 1,
        "steps": 1,
    }
    fit(command(policy_folder, data_folder, tmp_path / "run", **keys))
    [file] = (tmp_path / "run/rollouts").iterdir()
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert "\ud800" in [row["completion"] for row in rows]
