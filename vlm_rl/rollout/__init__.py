"""Rollout engines: everything that samples completions."""

from vlm_rl.rollout.checkpoint_sampler import unused_sampler
from vlm_rl.rollout.engine import Engine, Sampling
from vlm_rl.rollout.faults import EngineError
from vlm_rl.rollout.transformers_engine import TransformersEngine
from vlm_rl.rollout.vllm.engine import VLLMEngine
from vlm_rl.rollout.vllm.server import VLLMServer

__all__ = [
    "Engine",
    "EngineError",
    "Sampling",
    "TransformersEngine",
    "VLLMEngine",
    "VLLMServer",
    "unused_sampler",
]
