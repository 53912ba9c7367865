"""A rollout that a server does while the policy trains: in a whole run, and how it is given up.

Broken on purpose, each seen red: `close` that leaves the rollout to the server; an engine that died
in a rollout not restarted.
"""

import json
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.false_server import false_server
from tests.support.overlapping import overlapped
from tests.support.patience import until
from tests.support.run_helpers import REWARD_TERMS, problems, trainer_checkpoint
from tests.support.vllm_setup import MISSING, ROUNDING, SAMPLING, Attacked
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.fit import fit
from vlm_rl.records import Completion, Prompt
from vlm_rl.rollout import VLLMServer
from vlm_rl.rollout.faults import EngineFault
from vlm_rl.rollout.vllm.client import Http
from vlm_rl.rollout.vllm.protocol import Vocabulary
from vlm_rl.run.metrics_csv import read_metrics
from vlm_rl.training.overlap import PENDING


class AttackedBeside(Attacked):
    """Attacks in the rollouts that are begun."""

    def begin(self, prompts: Sequence[Prompt], **how: Any) -> Future[list[list[Completion]]]:
        self.due = self.attacks.pop(0) if self.attacks else ""
        return super().begin(prompts, **how)

    def generate(self, prompts: Sequence[Prompt], **how: Any) -> list[list[Completion]]:
        return VLLMServer.generate(self, prompts, **how)


@pytest.mark.long
def test_run_loses_its_server_in_a_rollout_and_leaves_none_behind_when_it_is_told_to_stop(
    policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    """The server dies in the rollout of step 3. The signal comes while step 5 is sampled."""
    pytest.importorskip("vllm", reason=MISSING)
    arguments = {"kv_cache_gib": 1 / 16, "max_concurrent": 64, "attacks": ["", "", "kill engine"]}
    path = f"{AttackedBeside.__module__}.{AttackedBeside.__name__}"
    signals = {"marker": str(tmp_path / "told"), "at": 5}
    even = {"class_path": "tests.support.overlapping.SignalsOnce", "init_args": signals}
    argv = overlapped(
        policy_folder,
        data_folder,
        tmp_path / "run",
        engine=json.dumps({"class_path": path, "init_args": arguments}),
        terms=REWARD_TERMS | {"even": even},
        validation__every_n_steps=9,
        checkpoint__every_n_steps=9,
    )
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    with pytest.raises(SystemExit) as stopped:
        fit(argv)
    assert stopped.value.code == 0
    left = {child.pid for child in psutil.Process().children(recursive=True)} - children
    assert not [pid for pid in left if "vllm" in " ".join(psutil.Process(pid).cmdline()).lower()]
    rows = [r for r in read_metrics(tmp_path / "run" / "metrics.csv") if "drift/abs_max" in r]
    assert [row["rollout/staleness_steps"] for row in rows] == [0, 1, 0]
    assert [row["rollout/engine_restarts"] for row in rows] == [0, 0, 1]
    assert [row["drift/abs_max"] < ROUNDING for row in rows] == [True, False, True]
    pending = trainer_checkpoint(tmp_path / "run", 3)["vlm_rl"][PENDING]
    assert len(pending["groups"]) == 2
    assert pending["weights_step"] == 2


def test_rollout_that_runs_when_the_run_ends_is_withdrawn_from_the_server(
    policy_folder: Path,
) -> None:
    """A server that goes on after the run would compute for nobody."""
    encoder = PromptEncoder(str(policy_folder))
    prompts = [encoder.encode(problem) for problem in problems(20)]
    with false_server() as server:
        server.answers["inference/v1/generate"] = server.silent
        engine: Any = VLLMServer(url=server.url, max_concurrent=4)
        engine._http = Http(server.url, 60.0)
        engine._vocabulary = Vocabulary(encoder.tokenizer, frozenset(), frozenset(), 400)
        rollout = engine.begin(prompts, group_size=4, sampling=SAMPLING, seed=0)
        asked = "POST /inference/v1/generate"
        until(lambda: sum(head.startswith(asked) for head in server.seen) == 9)
        engine.close()
        assert server.seen[-1].startswith("POST /abort_requests")
        with pytest.raises(EngineFault, match="the run has ended"):
            engine.wait(rollout)
