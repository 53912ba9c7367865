"""What can go wrong with a rollout engine that is a program of its own."""


class EngineError(RuntimeError):
    """The engine can not go on; the policy is unharmed. Its message is for the user."""

    together = False
    """Whether every process of the run raises it, at the same place."""


class EngineFault(EngineError):
    """The engine died, hung or gave a broken answer: start it again and ask again."""

    own = True
    """Whether it is the engine of this process that failed."""


class EngineMismatch(EngineError):
    """Engine and trainer do not see the same thing; to ask again would not help."""


WEIGHT_STREAM = "weight stream: "
"""Begins what a receiver of weights complains of, also through an HTTP server's error."""


def refused(message: str) -> EngineError:
    """For a request that the engine will refuse as often as it is made."""
    _, mark, complaint = message.partition(WEIGHT_STREAM)
    return EngineMismatch(complaint.strip()) if mark else EngineError(f"vLLM refuses: {message}")


class EngineGaveUp(EngineError):
    """The engine failed too often in a row; all processes count alike."""

    together = True
