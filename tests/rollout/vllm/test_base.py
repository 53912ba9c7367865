"""What an engine of vLLM refuses before it is started, and the files it is started with.

Broken on purpose, one at a time, each seen red:
    one condition of the three on ranks left out -> refused; GPUs counted for one rank -> accepted
"""

from pathlib import Path

import pytest
import torch
from transformers import Qwen3_5Config, Qwen3_5MoeConfig, Qwen3VLMoeConfig

from tests.support.vllm_setup import SAMPLING, Setup, in_process
from vlm_rl.rollout import Engine, TransformersEngine, VLLMEngine, VLLMServer

NODES = {"world_size": 4, "num_nodes": 2, "devices_per_node": 2}
URL = "http://127.0.0.1:8000"


def test_engine_arguments_are_checked_by_name() -> None:
    for change, words in (
        ({"max_concurrent": 0}, "max_concurrent must be >= 1, got 0"),
        ({"gpu_memory_utilization": 1.5}, r"gpu_memory_utilization must be in \(0, 1\)"),
        ({"silence_timeout_s": 0.0}, "silence_timeout_s must be > 0"),
        ({"max_restarts": -1}, "max_restarts must be >= 0"),
    ):
        with pytest.raises(ValueError, match=f"VLLMEngine.{words}"):
            VLLMEngine(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("engine", "strategy", "words"),
    [
        (VLLMEngine(), "zero3", "trainer.strategy=zero3 .* VLLMEngine .*take fsdp2"),
        (VLLMServer(url=URL), "zero3_offload", "trainer.strategy=zero3_offload .* VLLMServer"),
        (
            VLLMServer(),
            None,
            r"trainer\.num_nodes=2: VLLMServer without url .*engine\.init_args\.url",
        ),
        (VLLMEngine(tensor_parallel_size=2), None, "tensor_parallel_size=2 needs 4 GPUs .* has 3;"),
    ],
    ids=["gathers within a step", "that with offload", "server of two nodes", "too few GPUs"],
)
def test_ranks_that_an_engine_cannot_serve_are_refused(
    engine: Engine, strategy: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(ValueError, match=words):
        engine.check_ranks(**NODES, gathers_within_step=strategy)


def test_ranks_that_an_engine_can_serve_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    TransformersEngine().check_ranks(**NODES, gathers_within_step="zero3")
    VLLMServer(url=URL).check_ranks(**NODES, gathers_within_step=None)
    VLLMEngine().check_ranks(**NODES, gathers_within_step=None)
    alone = {"world_size": 1, "num_nodes": 1, "devices_per_node": 1}
    VLLMEngine(tensor_parallel_size=4).check_ranks(**alone, gathers_within_step=None)


def test_files_of_an_engine_have_neither_weights_nor_a_sampler(tmp_path: Path) -> None:
    engine = in_process()
    setup = Setup.build("qwen2_5_vl", tmp_path, engine)
    (tmp_path / "generation_config.json").write_text('{"top_k": 2}')
    engine.prepare(tmp_path / "engine", setup.policy.model.config, setup.encoder, SAMPLING)
    names = {path.name for path in (tmp_path / "engine").iterdir()}
    assert "config.json" in names
    assert not {name for name in names if name.endswith("safetensors")}
    assert "generation_config.json" not in names


def test_families_that_vllm_cannot_compute_on_a_cpu_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"precision=float32: .* qwen3_5 in bfloat16 only"):
        VLLMEngine().check_model(Qwen3_5Config())
    with pytest.raises(ValueError, match=r"adapter_rank=8: .* experts of qwen3_vl_moe with Triton"):
        VLLMServer(adapter_rank=8).check_model(Qwen3VLMoeConfig())
    VLLMEngine(precision="bfloat16").check_model(Qwen3_5MoeConfig())
    VLLMEngine(precision="bfloat16", adapter_rank=8).check_model(Qwen3_5Config())
    VLLMServer(url=URL).check_model(Qwen3_5Config())  # on another machine
