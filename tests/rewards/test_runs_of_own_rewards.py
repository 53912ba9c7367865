"""Runs whose rewards are functions beside the configuration: judged, routed, failing, hanging.

Mutations tried, each seen red: error in place of timeout; scored ones counted as failed.
"""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.run_helpers import command, rollouts
from vlm_rl.fit import fit
from vlm_rl.run.metrics_csv import read_metrics

FUNCTIONS = """
import os, time

def even(completion):
    return len(completion.text) % 2 == 0

def bonus(problem, completion, length):
    if len(completion.text) % 3 == 0:
        raise LookupError("no bonus")
    return length / 10

def never(problem, completion):
    return 0.0

def sure(completion, logprobs, entropies, sampling_logprobs):
    assert len(logprobs) == len(entropies) == len(completion) == len(sampling_logprobs)
    assert (logprobs - sampling_logprobs).abs().max() < 1e-4
    assert (entropies >= 0).all()
    return -float(entropies.sum())

def hangs_once(problem, completion):
    flag = os.environ["HUNG_FLAG"]
    if problem.source == "right" and not os.path.exists(flag):
        open(flag, "w").close()
        time.sleep(10**6)
    return 1.0
"""


def own(kind: str, function: str, **more: Any) -> dict[str, Any]:
    init = {"function": function, "file": "my_rewards.py", **more}
    return {"class_path": f"vlm_rl.rewards.{kind}", "init_args": init}


def run(
    reward: dict[str, Any],
    folder: Path,
    policy: Path,
    data: Path,
    *more: str,
    **keys: object,
) -> tuple[list[dict[str, float]], list[list[dict[str, Any]]]]:
    """Fit with the configuration and its functions in a folder; return metrics and rollouts."""
    project = folder / "project"
    project.mkdir(exist_ok=True)
    (project / "my_rewards.py").write_text(FUNCTIONS)
    (project / "mine.yaml").write_text(json.dumps({"reward": reward}))
    argv = command(policy, data, folder / "run", **keys)
    argv = [word for word in argv if not word.startswith("--reward.terms")]
    argv[2:2] = ["--config", str(project / "mine.yaml")]
    fit([*argv, *more])
    metrics = [row for row in read_metrics(folder / "run" / "metrics.csv") if "reward/mean" in row]
    return metrics, [*rollouts(folder / "run").values()]


def test_run_without_a_checker_whose_functions_fail_now_and_then(
    policy_folder: Path,
    data_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The working directory is another one. A resume finds the file again."""
    terms = {"right": own("JudgingFunction", "even"), "bonus": own("Function", "bonus")}
    monkeypatch.chdir(tmp_path)
    where = (tmp_path, policy_folder, data_folder)
    run({"terms": terms}, *where, steps=2, group_size=4)
    with caplog.at_level(logging.WARNING):
        metrics, written = run({"terms": terms}, *where, steps=3, group_size=4)
    assert len(metrics) == len(written) == 3
    for measured, rows in zip(metrics, written, strict=True):
        for row in rows:
            failed, right = (len(row["completion"]) % n == 0 for n in (3, 2))
            assert row["verdict"] == ("error" if failed else "correct" if right else "wrong")
            total = 0.0 if failed else right + row["length_tokens"] / 10
            assert row["reward"] == pytest.approx(total)
        scored = [row for row in rows if row["verdict"] != "error"]
        lost = (len(rows) - len(scored)) / len(rows)
        assert measured["reward/bonus_failed_frac"] == measured["reward/error_frac"]
        assert measured["reward/bonus_failed_frac"] == pytest.approx(lost)
        if scored:
            mean = sum(row["length_tokens"] for row in scored) / len(scored)
            assert measured["reward/bonus"] == pytest.approx(mean / 10)
            right = sum(row["verdict"] == "correct" for row in scored) / len(scored)
            assert measured["reward/accuracy"] == pytest.approx(right)
    assert any(row["verdict"] == "error" for rows in written for row in rows), "none has failed"
    said = [r.getMessage() for r in caplog.records if "LookupError" in r.getMessage()]
    assert all("bonus (" in line and "of problem 'synthetic-" in line for line in said)


@pytest.mark.long
def test_run_whose_function_reads_what_the_policy_says_of_the_tokens(
    policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    """In training and in validation; nothing fails, and the mean entropy is that of the update."""
    terms = {"right": own("JudgingFunction", "even"), "sure": own("Function", "sure")}
    keys = {"steps": 2, "group_size": 4, "updates.micro_batch_tokens": 300}
    keys["updates.num_minibatches"] = 1
    metrics, written = run({"terms": terms}, tmp_path, policy_folder, data_folder, **keys)
    for measured, rows in zip(metrics, written, strict=True):
        assert measured["reward/sure_failed_frac"] == 0
        tokens = sum(row["length_tokens"] for row in rows) / len(rows)
        if measured["policy/left_out_frac"] == 0:
            entropy = measured["policy/entropy"] * tokens
            assert measured["reward/sure"] == pytest.approx(-entropy, rel=1e-4)
    assert any(measured["policy/left_out_frac"] == 0 for measured in metrics)


@pytest.mark.long
def test_run_that_goes_by_two_sources_and_hangs_once(
    policy_folder: Path, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUNG_FLAG", str(tmp_path / "hung"))
    sources, paths = {}, []
    lines = (data_folder / "train.jsonl").read_text().splitlines()
    for side, name in enumerate(("left", "right")):
        rows = [json.loads(line) | {"source": name} for line in lines[side::2]]
        for row in rows:
            row["images"] = [str(data_folder / image) for image in row["images"]]
        sources |= {row["uid"]: name for row in rows}
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        paths.append({"path": str(tmp_path / f"{name}.jsonl")})
    routes = {
        "left": own("JudgingFunction", "never"),
        "right": own("JudgingFunction", "hangs_once", timeout_s=1.0),
    }
    default = {"class_path": "tests.support.run_helpers.UntestedAccuracy"}
    init = {"routes": routes, "by": "source", "default": default, "weight": 2.0}
    terms = {"kind": {"class_path": "vlm_rl.rewards.Route", "init_args": init}}
    metrics, written = run(
        {"terms": terms},
        *(tmp_path, policy_folder, data_folder, f"--data.train={json.dumps(paths)}"),
        **{"steps": 2, "data.prompts_per_step": 6, "group_size": 2},
    )
    rows = [row for step in written for row in step]
    found = Counter((sources[row["uid"]], row["verdict"], row["reward"]) for row in rows)
    late = ("right", "timeout", 0.0)
    assert found.keys() == {("left", "wrong", 0.0), ("right", "correct", 2.0), late}
    assert found[late] == 1, "the call that hung, and no other"
    for measured, rows in zip(metrics, written, strict=True):
        scored = [sources[row["uid"]] for row in rows if row["verdict"] != "timeout"]
        for name, accuracy in (("left", 0.0), ("right", 1.0)):
            if name in scored:
                assert measured[f"reward/kind/{name}_accuracy"] == accuracy
                share = scored.count(name) / len(scored)
                assert measured[f"reward/kind/{name}_frac"] == pytest.approx(share)


def test_route_without_a_problems_source_stops_before_training(
    policy_folder: Path, data_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    init = {"routes": {"left": own("JudgingFunction", "never")}, "by": "source"}
    terms = {"kind": {"class_path": "vlm_rl.rewards.Route", "init_args": init}}
    with pytest.raises(SystemExit):
        run({"terms": terms}, tmp_path, policy_folder, data_folder)
    said = " ".join(capfd.readouterr().err.split())
    assert "its source 'synthetic' is none of the routes left; add one, or Route.default" in said
    assert not list((tmp_path / "run").glob("checkpoints/*"))
