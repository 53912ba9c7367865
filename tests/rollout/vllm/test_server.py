"""vLLM as a server: one of `python -m vlm_rl.serve`, and one that a run starts and loses.

Broken on purpose, one at a time, each seen red:
    images sent as JPEG -> the checks at the start, so every test
    the length of the server's model not compared -> server started otherwise
    a server that outlives its run -> own server
    complaints of the weight stream taken for faults -> renamed weight
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.patience import runs, until
from tests.support.places import REPOSITORY
from tests.support.run_helpers import QUICKSTART
from tests.support.vllm_setup import MISSING, ROUNDING, Setup, tokens_of
from vlm_rl.distributed.weights import whole_weights
from vlm_rl.rollout import Sampling, VLLMServer
from vlm_rl.rollout.faults import EngineFault, EngineMismatch
from vlm_rl.rollout.vllm import gate
from vlm_rl.rollout.vllm.client import Http

pytest.importorskip("vllm", reason=MISSING)


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """Start a server by hand, and the engine of a run that has its url."""
    folder = tmp_path_factory.mktemp("checkpoint")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    engine = VLLMServer(url=url, max_concurrent=64, silence_timeout_s=60)
    built = Setup.build("qwen3_vl", folder, engine)
    options = {
        "config": QUICKSTART,
        "policy.path": folder,
        "prompt.max_prompt_tokens": 1024,
        "sampling.max_completion_tokens": 24,
        "engine": "vlm_rl.rollout.VLLMServer",
        "engine.init_args.url": url,
    }
    arguments = [sys.executable, "-m", "vlm_rl.serve", "--port", str(port)]
    arguments += [f"--{name}={value}" for name, value in options.items()]
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv(gate.VARIABLE, gate.new_token())
    server = subprocess.Popen(arguments, start_new_session=True)
    try:
        until(lambda: Http(url, 60.0).healthy() or server.poll() is not None, every_s=0.3)
        assert server.poll() is None, "it prints why"
        yield built.start()
        engine.close()
        assert server.poll() is None, "an engine must not stop a server that it did not start"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        monkeypatch.undo()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampling_logprobs_are_the_policys(setup: Setup, temperature: float) -> None:
    gaps = setup.gaps(setup.generate(Sampling(temperature, 24)), temperature)
    assert len(gaps) > 200
    assert gaps.max() < ROUNDING


def test_seed_decides_the_completions(setup: Setup) -> None:
    assert tokens_of(setup.generate()) == tokens_of(setup.generate())
    assert tokens_of(setup.generate()) != tokens_of(setup.generate(seed=1))


@pytest.mark.parametrize("part", ["vision_tower", "language_model"])
def test_update_brings_the_new_weights_and_leaves_no_old_ones(setup: Setup, part: Any) -> None:
    assert setup.gaps(setup.generate()).max() < ROUNDING
    setup.scale(part)
    assert setup.gaps(setup.generate()).max() > 0.05
    setup.engine.update_weights(setup.policy)
    assert setup.gaps(setup.generate()).max() < ROUNDING


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_config.generation_config", "auto"),
        ("model_config.logprobs_mode", "raw_logprobs"),
        ("model_config.dtype", "torch.bfloat16"),
        ("model_config.max_model_len", 1000),
        ("weight_transfer_config", None),
        ("weight_transfer_config.backend", "nccl"),
    ],
    ids=str,
)
def test_server_started_otherwise_is_refused_by_name(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    """Change one setting of those that the real server reports."""
    engine: Any = setup.engine
    info = json.loads(engine._http._sent("GET", "server_info?config_format=json", None))
    *path, last = name.split(".")
    place = info["vllm_config"]
    for step in path:
        place = place[step]
    place[last] = value
    monkeypatch.setattr(Http, "_sent", lambda *_, **__: json.dumps(info).encode())
    with pytest.raises(EngineMismatch, match=rf"{last}\S* is .*must be.*vlm_rl\.serve"):
        engine._launch()


@pytest.mark.parametrize("path", ["start_weight_update", "inference/v1/generate", "metrics", ""])
@pytest.mark.parametrize("token", ["", "wrong" * 8])
def test_server_refuses_whoever_lacks_the_secret(setup: Setup, path: str, token: str) -> None:
    engine: Any = setup.engine
    stranger = Http(engine._http.base, 5.0, token)
    with pytest.raises(EngineMismatch, match=rf"/{path} refuses this run's VLM_RL_SERVER_TOKEN"):
        stranger.post(path, {})


def test_server_that_is_not_there_is_a_fault_in_time(setup: Setup) -> None:
    engine = VLLMServer(url="http://127.0.0.1:9", startup_timeout_s=1.0, max_restarts=0)
    engine._http = Http("http://127.0.0.1:9", 1.0)
    with pytest.raises(EngineFault, match=r"http://127\.0\.0\.1:9 is not up after 1 s"):
        engine._await_health()


@pytest.mark.long
def test_own_server_ends_with_the_run_that_is_killed(tmp_path: Path) -> None:
    """Its workers end too, which are not its children: no orphan keeps a GPU."""
    program = f"""
import sys, time; sys.path.insert(0, {str(REPOSITORY)!r})
from pathlib import Path
import vlm_rl
from tests.support.vllm_setup import SAMPLING, Setup
from vlm_rl.rollout import VLLMServer
setup = Setup.build("qwen3_vl", Path({str(tmp_path)!r}), VLLMServer())
setup.start()
"""
    run = subprocess.Popen([sys.executable, "-c", program])
    try:
        until(lambda: run.poll() is not None or has_engine(run.pid), every_s=0.5)
        assert run.poll() is None
        children = psutil.Process(run.pid).children(recursive=True)
    finally:
        run.kill()
        run.wait()
    until(lambda: not any(runs(child.pid) for child in children))


def has_engine(pid: int) -> bool:
    children = psutil.Process(pid).children(recursive=True)
    return any("EngineCore" in " ".join(child.cmdline()) for child in children)


def test_renamed_weight_is_fatal_by_name_through_http(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Last: the server holds half an update afterwards."""

    def renamed(policy: Any, **how: Any) -> Iterator[Any]:
        for name, weight in whole_weights(policy, **how):
            yield name.replace("blocks.1.attn.proj", "blocks.1.attn.projection"), weight

    monkeypatch.setattr("vlm_rl.rollout.vllm.base.whole_weights", renamed)
    with pytest.raises(EngineMismatch, match=r"does not fit: .*projection"):
        setup.engine.update_weights(setup.policy)
