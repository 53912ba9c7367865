"""Rollout engines: everything that samples completions.

May import data, model, distributed and below. A new engine is one file with a subclass of `Engine`,
exported here; what holds its own copy of the weights and imports vLLM lives in `vllm/`.
"""

from vlm_rl.rollout.engine import Engine, shortened
from vlm_rl.rollout.faults import EngineError
from vlm_rl.rollout.sampling import Sampling, unused_sampler
from vlm_rl.rollout.stop_tokens import StopTokens
from vlm_rl.rollout.transformers_engine import TransformersEngine
from vlm_rl.rollout.vllm.engine import VLLMEngine
from vlm_rl.rollout.vllm.server import VLLMServer

__all__ = [
    "Engine",
    "EngineError",
    "Sampling",
    "StopTokens",
    "TransformersEngine",
    "VLLMEngine",
    "VLLMServer",
    "shortened",
    "unused_sampler",
]
