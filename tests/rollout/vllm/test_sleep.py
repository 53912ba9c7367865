"""vLLM that frees its memory between rollouts.

Seen red: weights sent while it sleeps -> awake.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.vllm_setup import MISSING, ROUNDING, Setup, in_process, tokens_of

pytest.importorskip("vllm", reason=MISSING)


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    """Not started yet."""
    built = Setup.build("qwen2_5_vl", tmp_path, in_process(sleep=True))
    yield built
    built.engine.close()


@pytest.mark.long
def test_engine_that_sleeps_between_rollouts_samples_the_same(setup: Setup) -> None:
    sleeping, setup.engine = setup.engine, in_process()
    undisturbed = tokens_of(setup.start().generate())
    setup.engine.close()
    setup.engine = sleeping
    setup.start()
    assert tokens_of(setup.generate()) == undisturbed
    setup.scale("language_model")
    setup.engine.update_weights(setup.policy)
    assert setup.gaps(setup.generate()).max() < ROUNDING
    assert setup.gaps(setup.generate(seed=1)).max() < ROUNDING


@pytest.mark.long
def test_weights_and_requests_reach_an_engine_that_is_awake(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check the calls to vLLM, in order: on a GPU it has no memory while it sleeps."""
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
    setup.start()
    assert "sleep" not in calls, "awake from the exchange to the rollout"
    for _ in range(2):
        setup.generate()
        assert asleep == {"weights", "kv_cache"}
        setup.engine.update_weights(setup.policy)
    assert calls.count("sleep") == 2
