"""Engines with a copy of the weights in two processes, one of which fails in the middle of a stream
of weights that are cut between both: nobody waits in vain, and nothing but the count changes.

The engine is a second transformers model (`copied_engine`), so that vLLM is not needed.

Broken on purpose, one at a time, each seen red:
    the stream not walked to its end -> the other process waits; both speak at the end -> one line
"""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.distributed.test_strategies import launch
from tests.support.run_helpers import command, rollouts
from vlm_rl.run.report import read_metrics

STRATEGIES = [
    "fsdp2",
    pytest.param(
        "zero2",
        marks=pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed"),
    ),
]


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_engine_that_fails_in_the_middle_of_a_stream(
    strategy: str, policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    """At the start, in the proof and in an update; beyond the ceiling both end with status 3."""

    def entry(name: str, breaks_after: list[int], status: int = 0, max_restarts: int = 3) -> dict:
        how = {"checkpoint": str(policy_folder), "rank": 1, "breaks_after": breaks_after}
        how |= {"max_restarts": max_restarts}
        engine = {"class_path": "tests.support.copied_engine.Copied", "init_args": how}
        argv = command(
            policy_folder,
            data_folder,
            tmp_path / name,
            engine=json.dumps(engine),
            steps=2,
            data__prompts_per_step=3,
            data__val_problems=3,
            validation__every_n_steps=2,
            checkpoint__every_n_steps=9,
        )
        return {"strategy": strategy, "processes": 2, "argv": argv, "status": status}

    runs = [entry("well", []), entry("faulty", [5, 100, 330]), entry("given_up", [250], 3, 0)]
    output = launch({"checkpoints": {}, "out": "", "runs": runs})
    trained = {
        name: [r for r in read_metrics(tmp_path / name / "metrics.csv") if "drift/abs_max" in r]
        for name in ("well", "faulty")
    }
    for rows in trained.values():
        assert max(row["drift/abs_max"] for row in rows) < 1e-4
    assert [row["rollout/engine_restarts"] for row in trained["well"]] == [0, 0]
    assert [row["rollout/engine_restarts"] for row in trained["faulty"]] == [2, 3]
    well, faulty = rollouts(tmp_path / "well"), rollouts(tmp_path / "faulty")
    assert [r["token_ids"] for rows in well.values() for r in rows] == [
        r["token_ids"] for rows in faulty.values() for r in rows
    ]
    (line,) = [line for line in output.splitlines() if "vlm_rl.fit:" in line]
    assert "failed 1 times in a row, last: rank 1: broken on purpose" in line
    assert "stopped after step 1 with a checkpoint" in line
