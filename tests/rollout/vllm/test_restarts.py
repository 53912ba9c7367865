"""An engine that fails is restarted: nothing is lost, and the count says so.

In process with vLLM. In two processes, with weights that are sharded over both, the engine is a
second transformers model (`copied_engine`), so that vLLM is not needed.

Broken on purpose, one at a time, each seen red:
    a restart without weights, or one that counts forever -> failure inside vLLM
    one restart too many -> ceiling; refusals taken for faults -> what vLLM refuses
    steps of the engine not reported -> watchdog
    the stream not walked to its end -> the other rank waits; both print at the end -> one line
"""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.test_strategies import launch
from tests.support.run_helpers import command, rollouts
from tests.support.vllm_setup import MISSING, SAMPLING, Setup, in_process, tokens_of
from vlm_rl.rollout import EngineError, VLLMEngine
from vlm_rl.rollout.faults import EngineFault, EngineGaveUp
from vlm_rl.rollout.watchdog import Watchdog
from vlm_rl.run.metrics_csv import read_metrics

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason=MISSING)
STRATEGIES = [
    "fsdp2",
    pytest.param(
        "zero2",
        marks=pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed"),
    ),
]


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    """Not started yet."""
    built = Setup.build("qwen2_5_vl", tmp_path, in_process(max_restarts=1))
    yield built
    built.engine.close()


@needs_vllm
@pytest.mark.long
def test_failure_inside_vllm_restarts_it_and_asks_again(setup: Setup) -> None:
    setup.start()
    undisturbed = tokens_of(setup.generate())
    engine: Any = setup.engine
    engine._llm.llm_engine.engine_core.engine_core.scheduler = None  # every step fails now
    assert tokens_of(setup.generate()) == undisturbed
    assert engine.restarts == 1
    engine._llm.llm_engine.engine_core.engine_core.scheduler = None
    setup.engine.update_weights(setup.policy)  # here too
    assert engine.restarts == 2
    assert tokens_of(setup.generate()) == undisturbed


@pytest.mark.long
@needs_vllm
def test_ceiling_of_restarts_ends_in_one_line(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.start()
    monkeypatch.setattr(VLLMEngine, "_launch", _breaking(VLLMEngine._launch))
    engine: Any = setup.engine
    engine._llm.llm_engine.engine_core.engine_core.scheduler = None
    with pytest.raises(EngineGaveUp, match=r"failed 2 times in a row, last: \w+Error: ") as caught:
        setup.generate()
    assert "\n" not in str(caught.value)
    assert engine.restarts == 1


@needs_vllm
def test_lack_of_memory_in_vllm_says_what_to_lower() -> None:
    engine = VLLMEngine(gpu_memory_utilization=0.5, max_concurrent=64)
    words = r"2 GiB; try engine\.init_args\.gpu_memory_utilization=0\.25 \(now 0\.5\), or .*=32"
    with pytest.raises(EngineFault, match=words), engine._vllm():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def _breaking(launch: Any) -> Any:
    def broken(self: Any) -> Any:
        sender = launch(self)
        self._llm.llm_engine.engine_core.engine_core.scheduler = None
        return sender

    return broken


@pytest.mark.long
@needs_vllm
def test_what_vllm_refuses_is_not_tried_again(setup: Setup) -> None:
    """A head size that its CPU kernels lack would fail forever; a prompt that is too long too."""
    setup.start()
    engine: Any = setup.engine
    too_long = setup.encoder.encode(setup.prompts[2].problem)
    object.__setattr__(too_long, "unexpanded_ids", torch.zeros(5000, dtype=torch.int64))
    with pytest.raises(EngineError, match="vLLM refuses: "):
        engine.generate([too_long], group_size=2, sampling=SAMPLING, seed=0)
    assert engine.restarts == 0


@needs_vllm
@pytest.mark.long
def test_watchdog_hears_of_every_finished_request(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.start()
    heard: list[Watchdog] = []
    touch = Watchdog.touch
    monkeypatch.setattr(Watchdog, "touch", lambda self: heard.append(self) or touch(self))
    setup.generate()
    assert len(heard) > len(setup.prompts)
    assert heard[0]._limit_s == setup.engine.silence_timeout_s  # type: ignore[attr-defined]


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_engine_that_fails_in_the_middle_of_a_stream(
    strategy: str, policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    """At the start, in its checks and in an update; beyond the ceiling both end with status 3."""

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
