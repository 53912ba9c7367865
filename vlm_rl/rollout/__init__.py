"""Rollout engines: everything that samples completions."""

from vlm_rl.rollout.engine import Engine, Sampling
from vlm_rl.rollout.transformers_engine import TransformersEngine

__all__ = ["Engine", "Sampling", "TransformersEngine"]
