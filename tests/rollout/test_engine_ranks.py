"""Which ranks an engine can serve is checked before a model is loaded.

Break one at a time, each seen red:
    one condition of the three left out -> refused; GPUs counted for a single rank -> accepted
"""

import pytest
import torch

from vlm_rl.rollout import Engine, TransformersEngine, VLLMEngine, VLLMServer

NODES = {"world_size": 4, "num_nodes": 2, "devices_per_node": 2}
URL = "http://127.0.0.1:8000"


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
