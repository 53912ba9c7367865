"""What advantages and shapings share: a view of the policy, and a state from step to step."""

from collections.abc import Mapping
from typing import Any

from vlm_rl.records import Rollout


class Remembering:
    """A part of a step that may have a state, the same on every rank, kept in checkpoints.

    `reads_policy`: it reads `logprobs` and `entropies` of completions, which cost a forward.
    """

    reads_policy: bool = False

    def learn(self, everyone: Rollout, dropped: Rollout) -> None:
        """Change the state by a step; `dropped` are the groups that a filter left out.

        Nothing else may change it: a run may be stopped in a step, and then does it again.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
