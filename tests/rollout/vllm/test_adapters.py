"""LoRA adapters in vLLM: merged before they are sent, or alone on the engine's own base.

Broken on purpose, one at a time, each seen red:
    adapters merged that go alone, or not merged that do not; the number of an adapter not raised; a
        request without its adapter, or always with the first one; only the adapter sent to an
        engine that is restarted -> samples from the policy
    trained weights that are not adapters let through -> refused if the policy trains more
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.parameters import also_long
from tests.support.vllm_setup import MISSING, ROUNDING, Setup, in_process
from vlm_rl.rollout import VLLMServer
from vlm_rl.rollout.faults import EngineMismatch

pytest.importorskip("vllm", reason=MISSING)

TARGETS = r".*language_model.*\.(q_proj|v_proj|up_proj|down_proj)"


def with_adapters(setup: Setup) -> Setup:
    """Adapters in the model itself, with a B that is not zero; the base is frozen by peft."""
    from peft import LoraConfig

    setup.policy.model.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS))
    change_adapters(setup)
    return setup


def change_adapters(setup: Setup) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in setup.policy.named_parameters():
            if ".lora_" in name:
                assert parameter.requires_grad
                parameter.add_(0.05 * torch.randn_like(parameter))


def break_engine(engine: Any) -> None:
    engine._llm.llm_engine.engine_core.engine_core.scheduler = None


@pytest.fixture(params=[also_long("merged"), "alone"])
def setup(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setup]:
    engine: Any = {
        "merged": lambda: in_process(),
        "alone": lambda: in_process(adapter_rank=8),
    }[request.param]()
    built = Setup.build("qwen2_5_vl", tmp_path, engine)
    yield with_adapters(built)
    engine.close()


@pytest.mark.long
def test_engine_samples_from_the_policy_with_its_adapters(setup: Setup) -> None:
    setup.start()
    assert setup.gaps(setup.generate()).max() < ROUNDING
    change_adapters(setup)
    assert setup.gaps(setup.generate()).max() > 0.05
    setup.engine.update_weights(setup.policy)
    assert setup.gaps(setup.generate()).max() < ROUNDING
    break_engine(setup.engine)
    assert setup.gaps(setup.generate()).max() < ROUNDING  # restarted, with base and adapter
    assert setup.engine.restarts == 1


def test_adapters_alone_are_refused_if_the_policy_trains_more(tmp_path: Path) -> None:
    setup = with_adapters(Setup.build("qwen2_5_vl", tmp_path, in_process(adapter_rank=8)))
    setup.policy.part("vision_tower").requires_grad_(True)
    with pytest.raises(EngineMismatch, match=r"the policy trains model\.model\.visual\.\S+; leave"):
        setup.start()
    setup.engine.close()


def test_adapters_alone_need_a_folder_that_both_sides_see() -> None:
    with pytest.raises(ValueError, match="adapter_rank=8 needs a folder that both sides see"):
        VLLMServer(url="http://127.0.0.1:8000", adapter_rank=8)
