"""What makes vLLM, in process, compute other than the policy is an error with its name.

Broken on purpose, one at a time, each seen red:
    names without a place let through, or checked in whole chunks -> ignored
    a tied head not asked for -> missing weight
    no comparison at the start -> other values; none after an update -> other values after an update
    files without the trainer's processor -> pixel limit
    blocks not compared -> block that the engine keeps; the block before not sent again, or image
        embeddings kept -> every start
Seen by no test: generation_config "auto", since every request names its whole sampler.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.parameters import also_long
from tests.support.vllm_setup import MISSING, ROUNDING, Setup, change_stream, in_process
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.rollout import VLLMEngine
from vlm_rl.rollout.faults import EngineMismatch
from vlm_rl.rollout.vllm.weight_sender import WeightSender

pytest.importorskip("vllm", reason=MISSING)

NAME = "model.language_model.layers.1.mlp.down_proj.weight"
TOWER = "model.visual.blocks.1.attn.proj.weight"


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    """Not started yet."""
    built = Setup.build("qwen2_5_vl", tmp_path, in_process())
    yield built
    built.engine.close()


@pytest.mark.parametrize("name", [also_long(NAME), TOWER, also_long("lm_head.weight")])
@pytest.mark.long
def test_renamed_weight_is_fatal_by_name(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    change_stream(monkeypatch, lambda n, w: [(n + "_x" if n == name else n, w)])
    with pytest.raises(EngineMismatch, match=name.replace(".", r"\.") + "_x"):
        setup.start()


@pytest.mark.parametrize("name", [also_long(NAME), also_long(TOWER), "lm_head.weight"])
def test_missing_weight_is_fatal_by_name(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The engine uses its own name for it. The head of this policy is tied to its embeddings."""
    change_stream(monkeypatch, lambda n, w: [] if n == name else [(n, w)])
    own = name.removeprefix("model.").replace("language_model.", "language_model.model.")
    with pytest.raises(EngineMismatch, match="1 weights .* not sent.*" + own.replace(".", r"\.")):
        setup.start()


@pytest.mark.long
def test_weight_that_vllm_ignores_is_fatal_by_name(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ignores a bias that its model does not have."""
    bias = NAME.replace("weight", "bias")
    change_stream(monkeypatch, lambda n, w: [(n, w), *[(bias, w)] * (n == NAME)])
    with pytest.raises(EngineMismatch, match=f"engine has no '{bias}'".replace(".", r"\.")):
        setup.start()


@pytest.mark.long
def test_weights_renamed_later_are_fatal(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.start()
    change_stream(monkeypatch, lambda n, w: [(n + "_x" if n == NAME else n, w)])
    with pytest.raises(EngineMismatch, match="down_proj"):
        setup.engine.update_weights(setup.policy)


@pytest.mark.long
def test_weights_of_another_shape_are_fatal(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    change_stream(monkeypatch, lambda n, w: [(n, w[:-1] if n == NAME else w)])
    with pytest.raises(EngineMismatch, match=NAME.replace(".", r"\.")):
        setup.start()


@pytest.mark.long
def test_other_values_are_fatal(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks exchanged: every name and shape fits."""
    parameters = dict(setup.policy.model.named_parameters())
    swapped = {NAME: parameters[NAME.replace("layers.1", "layers.0")]}
    change_stream(monkeypatch, lambda n, w: [(n, swapped.get(n, w).detach())])
    with pytest.raises(EngineMismatch, match=r"at the start.* nats a token from the policy's"):
        setup.start()


@pytest.mark.long
def test_other_values_after_an_update_are_fatal(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.start()
    change_stream(monkeypatch, lambda n, w: [(n, w * 1.5 if n == NAME else w)])
    with pytest.raises(EngineMismatch, match=r"after an update.* nats a token from the policy's"):
        setup.engine.update_weights(setup.policy)


@pytest.mark.parametrize(
    ("block", "first"),
    [
        (r"model\.language_model\.layers\.1", "layers.1."),
        pytest.param(r"model\.visual\.blocks\.0", "blocks.0.", marks=pytest.mark.long),
    ],
)
def test_block_that_the_engine_keeps_is_named(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, block: str, first: str
) -> None:
    """Partial updates lose the weights of this block."""
    send = WeightSender.send

    def lossy(self: WeightSender, weights: Any, **how: bool) -> None:
        kept = [(n, w) for n, w in weights if not (how.get("partial") and first in n)]
        if kept:
            send(self, kept, **how)

    monkeypatch.setattr(WeightSender, "send", lossy)
    with pytest.raises(EngineMismatch, match=f"weights of {block} do not reach"):
        setup.start()


@pytest.mark.long
def test_caches_that_survive_an_update_are_noticed_at_the_start(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VLLMEngine, "_empty_caches", lambda self: None)
    with pytest.raises(EngineMismatch, match=r"do not reach|nats a token from"):
        setup.start()


def test_image_embeddings_that_survive_an_update_are_noticed_at_the_start(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only prefixes are forgotten, as by vLLM's own reset."""
    monkeypatch.setattr(
        VLLMEngine, "_empty_caches", lambda self: self._llm.reset_prefix_cache() and None
    )
    with pytest.raises(EngineMismatch, match=r"weights of model\.visual\.\S+ do not reach"):
        setup.start()


@pytest.mark.long
def test_bfloat16_engine_is_checked_within_its_precision(setup: Setup) -> None:
    setup.engine = in_process(precision="bfloat16")
    setup.start()
    setup.scale("vision_tower")
    setup.engine.update_weights(setup.policy)
    gaps = setup.gaps(setup.generate())
    assert 1e-4 < gaps.mean() < 5e-2


def test_other_pixel_limit_in_the_engine_is_an_error_with_the_uid(setup: Setup) -> None:
    smaller = PromptEncoder(str(setup.folder), max_prompt_tokens=1024, max_pixels=4096)

    class Other(VLLMEngine):
        def prepare(self, folder: Path, config: Any, encoder: Any, sampling: Any) -> None:
            super().prepare(folder, config, smaller, sampling)

    setup.engine = Other(kv_cache_gib=1 / 16)
    with pytest.raises(EngineMismatch, match=r"problem probe with image: .*max_pixels"):
        setup.start()


@pytest.mark.long
def test_sampler_of_a_checkpoint_is_not_used(setup: Setup) -> None:
    """The folder that vLLM reads has a penalty."""
    penalties = '{"repetition_penalty": 3.0, "temperature": 0.1, "top_k": 2}'

    class Shipped(VLLMEngine):
        def prepare(self, folder: Path, config: Any, encoder: Any, sampling: Any) -> None:
            super().prepare(folder, config, encoder, sampling)
            (folder / "generation_config.json").write_text(penalties)

    setup.engine = Shipped(kv_cache_gib=1 / 16)
    setup.start()
    assert setup.gaps(setup.generate()).max() < ROUNDING
