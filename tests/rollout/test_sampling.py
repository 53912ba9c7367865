"""Which samplers are accepted, without an engine.

Broken on purpose, one at a time, each seen red:
    penalties and filters checked only below their neutral values -> refused by name
    fields that agree with the run's listed too -> sampler of the checkpoint
"""

from pathlib import Path
from typing import Any

import pytest

from vlm_rl.rollout import Sampling, TransformersEngine, unused_sampler


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_p", 0.9),
        ("top_k", 20),
        ("min_p", 0.1),
        ("repetition_penalty", 1.05),
        ("presence_penalty", 0.5),
        ("frequency_penalty", 0.5),
    ],
)
def test_sampler_that_the_policy_cannot_describe_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"sampling\.{name}={value}: .*allow_undescribed"):
        Sampling(**{name: value})
    allowed = Sampling(**{name: value}, allow_undescribed=(name,))
    assert allowed.undescribed == [name]
    with pytest.raises(ValueError, match=f"TransformersEngine .*{name}.*VLLMEngine"):
        TransformersEngine().check(allowed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"top_p": 0.0}, r"sampling.top_p must be in \(0, 1\], got 0.0"),
        ({"top_k": -1}, "top_k must be .*got -1"),
        ({"min_p": 1.0}, "min_p must be .*got 1.0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be"),
        ({"allow_undescribed": ("topk",)}, "'topk' is none of top_p, top_k"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Sampling(**change)


def test_sampler_of_the_checkpoint_is_named_and_not_used(tmp_path: Path) -> None:
    assert unused_sampler(str(tmp_path), Sampling()) is None
    (tmp_path / "generation_config.json").write_text(
        '{"repetition_penalty": 1.05, "top_k": 1, "temperature": 1.0, "eos_token_id": 3}'
    )
    line = unused_sampler(str(tmp_path), Sampling())
    assert line is not None
    assert "not used (top_k=1, repetition_penalty=1.05)" in line
    assert "top_k=0" in line
