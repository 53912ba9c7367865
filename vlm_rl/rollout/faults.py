"""What can go wrong with a rollout engine that is a program of its own."""


class EngineError(RuntimeError):
    """The engine can not go on; the policy is unharmed. Its message is for the user."""


class EngineFault(EngineError):
    """The engine died, hung or gave a broken answer: start it again and ask again."""


class EngineMismatch(EngineError):
    """Engine and trainer do not see the same thing; to ask again would not help."""


class EngineGaveUp(EngineError):
    """The engine failed too often in a row."""
