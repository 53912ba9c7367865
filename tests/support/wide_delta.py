"""The delta rule of transformers in float64: theirs computes in float32, whatever the model has.

With it a layer with a recurrent state can be compared in float64, as every other layer.
"""

import inspect
from typing import Any

import pytest
from transformers.models.qwen3_5 import modeling_qwen3_5
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe

MODULES = (modeling_qwen3_5, modeling_qwen3_5_moe)
RULES = ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule")


def widen_delta_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let models with recurrences compute their delta rule in float64."""
    for module in MODULES:
        for rule in RULES:
            monkeypatch.setattr(module, rule, _wide(module, rule))


def _wide(module: Any, rule: str) -> Any:
    source = inspect.getsource(inspect.unwrap(getattr(module, rule)))
    assert "torch.float32" in source
    lines = source.replace("torch.float32", "torch.float64").splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("def "))
    names = dict(vars(module))
    exec("\n".join(lines[start:]), names)
    return names[rule]
