"""What vLLM 0.32 needs on a CPU, and what its build for CPUs does not compute."""

from typing import Any

from vlm_rl.model.families import Family, family_of


def check(config: Any, precision: str, adapter_rank: int) -> None:
    """Check that vLLM's kernels for CPUs compute such a model. Raises ValueError."""
    family = family_of(config)
    if family.recurrence is not None and precision != "bfloat16":
        raise ValueError(
            f"engine.init_args.precision={precision}: on a CPU vLLM computes the recurrence of "
            f"{config.model_type} in bfloat16 only; set that"
        )
    if family.routers is not None and adapter_rank:
        raise ValueError(
            f"engine.init_args.adapter_rank={adapter_rank}: beside adapters vLLM computes the "
            f"experts of {config.model_type} with Triton, which a CPU lacks; leave it at 0 to "
            "merge adapters into the weights"
        )


def arguments(family: Family, max_model_len: int) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM` that a CPU needs."""
    needed: dict[str, Any] = {
        "enforce_eager": True,
        # a seeded request whose prompt is processed in parts kills vLLM's CPU sampler
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(8192, max_model_len),
    }
    if family.recurrence is not None:
        needed["enable_prefix_caching"] = False  # of a recurrence only with prompts in parts
    return needed
