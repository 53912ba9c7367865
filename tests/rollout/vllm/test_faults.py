"""What must never pass in silence between a policy and vLLM in its process.

Broken on purpose, one at a time, each seen red:
    names without a place let through, or looked for in whole chunks -> passed over
    a tied head not asked for -> missing weight
    no comparison at the start -> other values; none after an update -> other values after an update
    blocks not compared -> block that the engine keeps; the block before not sent again, or image
        embeddings kept -> every start
    a start again without weights, or one that counts for ever -> failure inside vLLM
    one start too many -> ceiling; refusals taken for faults -> what vLLM refuses
    steps of the engine not reported -> watchdog; weights sent while it sleeps -> awake
    files without the trainer's processor -> pixel limit
Seen by no test: generation_config "auto", since every request names its whole sampler.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.vllm_setup import MISSING, SAMPLING, Setup, in_process, tokens_of
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.distributed.strategies import whole_weights
from vlm_rl.model.policy import Policy
from vlm_rl.rollout import EngineError, VLLMEngine
from vlm_rl.rollout.faults import EngineGaveUp, EngineMismatch
from vlm_rl.rollout.vllm.weight_sender import WeightSender
from vlm_rl.rollout.watchdog import Watchdog

pytest.importorskip("vllm", reason=MISSING)

NAME = "model.language_model.layers.1.mlp.down_proj.weight"
TOWER = "model.visual.blocks.1.attn.proj.weight"


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    """Not started yet."""
    built = Setup.build("qwen2_5_vl", tmp_path, in_process(max_restarts=1))
    yield built
    built.engine.close()


def change_stream(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    def changed(policy: Policy, **how: Any) -> Iterator[tuple[str, Tensor]]:
        for name, weight in whole_weights(policy, **how):
            yield from change(name, weight)

    monkeypatch.setattr("vlm_rl.rollout.vllm.base.whole_weights", changed)


@pytest.mark.parametrize("name", [NAME, TOWER, "lm_head.weight"])
def test_renamed_weight_is_fatal_by_name(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    change_stream(monkeypatch, lambda n, w: [(n + "_x" if n == name else n, w)])
    with pytest.raises(EngineMismatch, match=name.replace(".", r"\.") + "_x"):
        setup.start()


@pytest.mark.parametrize("name", [NAME, TOWER, "lm_head.weight"])
def test_missing_weight_is_fatal_by_name(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The engine names it as it calls it. The head of this policy is tied to its embeddings."""
    change_stream(monkeypatch, lambda n, w: [] if n == name else [(n, w)])
    own = name.removeprefix("model.").replace("language_model.", "language_model.model.")
    with pytest.raises(EngineMismatch, match="1 weights .* not sent.*" + own.replace(".", r"\.")):
        setup.start()


def test_weight_that_vllm_passes_over_is_fatal_by_name(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ignores a bias that its model does not have."""
    bias = NAME.replace("weight", "bias")
    change_stream(monkeypatch, lambda n, w: [(n, w), *[(bias, w)] * (n == NAME)])
    with pytest.raises(EngineMismatch, match=f"engine has no '{bias}'".replace(".", r"\.")):
        setup.start()


def test_weights_renamed_later_are_fatal(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.start()
    change_stream(monkeypatch, lambda n, w: [(n + "_x" if n == NAME else n, w)])
    with pytest.raises(EngineMismatch, match="down_proj"):
        setup.engine.update_weights(setup.policy)


def test_weights_of_another_shape_are_fatal(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    change_stream(monkeypatch, lambda n, w: [(n, w[:-1] if n == NAME else w)])
    with pytest.raises(EngineMismatch, match=NAME.replace(".", r"\.")):
        setup.start()


def test_other_values_are_fatal(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks exchanged: every name and shape fits."""
    parameters = dict(setup.policy.model.named_parameters())
    swapped = {NAME: parameters[NAME.replace("layers.1", "layers.0")]}
    change_stream(monkeypatch, lambda n, w: [(n, swapped.get(n, w).detach())])
    with pytest.raises(EngineMismatch, match=r"at the start.* nats a token from the policy's"):
        setup.start()


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
        (r"model\.visual\.blocks\.0", "blocks.0."),
    ],
)
def test_block_that_the_engine_keeps_is_named(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, block: str, first: str
) -> None:
    """Of the partial updates this block's weights are lost."""
    send = WeightSender.send

    def lossy(self: WeightSender, weights: Any, **how: bool) -> None:
        kept = [(n, w) for n, w in weights if not (how.get("partial") and first in n)]
        if kept:
            send(self, kept, **how)

    monkeypatch.setattr(WeightSender, "send", lossy)
    with pytest.raises(EngineMismatch, match=f"weights of {block} do not reach"):
        setup.start()


def test_caches_that_survive_an_update_are_found_at_the_start(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VLLMEngine, "_empty_caches", lambda self: None)
    with pytest.raises(EngineMismatch, match=r"do not reach|nats a token from"):
        setup.start()


def test_image_embeddings_that_survive_an_update_are_found_at_the_start(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the prefixes are forgotten, as vLLM's own reset does."""
    monkeypatch.setattr(
        VLLMEngine, "_empty_caches", lambda self: self._llm.reset_prefix_cache() and None
    )
    with pytest.raises(EngineMismatch, match=r"weights of model\.visual\.\S+ do not reach"):
        setup.start()


def test_other_pixel_limit_in_the_engine_is_found_with_the_uid(setup: Setup) -> None:
    smaller = PromptEncoder(str(setup.folder), max_prompt_tokens=1024, max_pixels=4096)

    class Other(VLLMEngine):
        def prepare(self, folder: Path, config: Any, encoder: Any, sampling: Any) -> None:
            super().prepare(folder, config, smaller, sampling)

    setup.engine = Other(kv_cache_gib=1 / 16)
    with pytest.raises(EngineMismatch, match=r"problem probe with image: .*max_pixels"):
        setup.start()


def test_sampler_of_a_checkpoint_is_not_taken_over(setup: Setup) -> None:
    """A penalty in the very folder that vLLM reads."""
    penalties = '{"repetition_penalty": 3.0, "temperature": 0.1, "top_k": 2}'

    class Shipped(VLLMEngine):
        def prepare(self, folder: Path, config: Any, encoder: Any, sampling: Any) -> None:
            super().prepare(folder, config, encoder, sampling)
            (folder / "generation_config.json").write_text(penalties)

    setup.engine = Shipped(kv_cache_gib=1 / 16)
    setup.start()
    assert setup.gaps(setup.generate()).max() < 1e-5


def test_bfloat16_engine_is_proved_within_its_precision(setup: Setup) -> None:
    setup.engine = in_process(precision="bfloat16")
    setup.start()
    setup.scale("vision_tower")
    setup.engine.update_weights(setup.policy)
    gaps = setup.gaps(setup.generate())
    assert 1e-4 < gaps.mean() < 5e-2


def test_engine_that_sleeps_between_rollouts_samples_the_same(setup: Setup) -> None:
    undisturbed = tokens_of(setup.start().generate())
    setup.engine.close()
    setup.engine = in_process(sleep=True)
    setup.start()
    assert tokens_of(setup.generate()) == undisturbed
    setup.scale("language_model")
    setup.engine.update_weights(setup.policy)
    assert setup.gaps(setup.generate()).max() < 1e-5
    assert setup.gaps(setup.generate(seed=1)).max() < 1e-5


def test_weights_and_requests_find_an_engine_that_is_awake(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What vLLM is asked for, in order: on a GPU its memory is not there while it sleeps."""
    from vllm import LLM

    asleep: set[str] = set()
    calls: list[str] = []

    def record(name: str, needs: set[str]) -> None:
        original = getattr(LLM, name)

        def recorded(self: Any, *arguments: Any, **options: Any) -> Any:
            assert not asleep & needs, f"{name} while {asleep} sleep"
            calls.append(name)
            if name == "sleep":
                asleep.update({"weights", "kv_cache"})
            if name == "wake_up":
                assert asleep.issuperset(options["tags"]), "woken twice"
                asleep.difference_update(options["tags"])
            return original(self, *arguments, **options)

        monkeypatch.setattr(LLM, name, recorded)

    needs: dict[str, set[str]] = {
        "start_weight_update": {"weights"},
        "update_weights": {"weights"},
        "generate": {"weights", "kv_cache"},
        "sleep": {"weights", "kv_cache"},
        "wake_up": set(),
    }
    for name, parts in needs.items():
        record(name, parts)
    setup.engine = in_process(sleep=True)
    setup.start()
    assert "sleep" not in calls, "awake from the exchange to the rollout"
    for _ in range(2):
        setup.generate()
        assert asleep == {"weights", "kv_cache"}
        setup.engine.update_weights(setup.policy)
    assert calls.count("sleep") == 2


def test_failure_inside_vllm_starts_it_again_and_asks_again(setup: Setup) -> None:
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


def _breaking(launch: Any) -> Any:
    def broken(self: Any) -> Any:
        sender = launch(self)
        self._llm.llm_engine.engine_core.engine_core.scheduler = None
        return sender

    return broken


def test_what_vllm_refuses_is_not_tried_again(setup: Setup) -> None:
    """A head size that its CPU kernels lack would fail for ever; a prompt that is too long too."""
    setup.start()
    engine: Any = setup.engine
    too_long = setup.encoder.encode(setup.prompts[2].problem)
    object.__setattr__(too_long, "unexpanded_ids", torch.zeros(5000, dtype=torch.int64))
    with pytest.raises(EngineError, match="vLLM refuses: "):
        engine.generate([too_long], group_size=2, sampling=SAMPLING, seed=0)
    assert engine.restarts == 0


def test_files_of_an_engine_hold_neither_weights_nor_a_sampler(setup: Setup) -> None:
    (setup.folder / "generation_config.json").write_text('{"top_k": 2}')
    setup.engine.prepare(  # type: ignore[attr-defined]
        setup.folder / "engine", setup.policy.model.config, setup.encoder, SAMPLING
    )
    found = {path.name for path in (setup.folder / "engine").iterdir()}
    assert "config.json" in found
    assert not {name for name in found if name.endswith("safetensors")}
    assert "generation_config.json" not in found
    shutil.rmtree(setup.folder / "engine")
