"""Failures of a rollout engine: `vllm/restarts.py` says which of them lead to a restart."""

from vlm_rl.parts import PartError


class EngineError(PartError):
    """The engine cannot continue; the policy is unharmed. Its message is for the user."""


class EngineFault(EngineError):
    """The engine died, hung or gave a broken answer: restart it and ask again."""

    own = True
    """Whether the engine of this rank failed."""


class EngineMismatch(EngineError):
    """Engine and trainer disagree; asking again would not help."""


class EngineGaveUp(EngineError):
    """The engine failed too often in a row; all ranks count alike."""

    together = True


WEIGHT_STREAM = "weight stream: "
"""Begins every complaint of a receiver of weights, also inside an HTTP server's error."""


def refusal(message: str) -> EngineError:
    """Build the error for a request that the engine refuses however often it is made."""
    _, mark, complaint = message.partition(WEIGHT_STREAM)
    return EngineMismatch(complaint.strip()) if mark else EngineError(f"vLLM refuses: {message}")
