"""From rewards to advantages, with the groups of all ranks in view."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vlm_rl.advantages import Advantage
from vlm_rl.advantages.remembering import Remembering
from vlm_rl.distributed import gather
from vlm_rl.distributed.gather import Places
from vlm_rl.parts import PartError, check_values, named, path_of
from vlm_rl.records import Rollout, Rows
from vlm_rl.shaping import Shaping


@dataclass(frozen=True, eq=False)
class Credited:
    """`rollout` are this rank's groups with their final rewards, `everyone` those of all ranks
    without images. `of_tokens` [P, G] or [P, G, T] are the advantages of `rollout`."""

    rollout: Rollout
    everyone: Rollout
    of_tokens: Tensor

    @property
    def advantages(self) -> Tensor:
        """[P, G] float64: of each completion, the mean over its tokens."""
        if self.of_tokens.ndim == 2:
            return self.of_tokens
        lengths = self.rollout.lengths
        own = torch.arange(self.of_tokens.shape[2]) < lengths[..., None]
        return torch.where(own, self.of_tokens, 0.0).sum(-1) / lengths.clamp(min=1)

    def of_rows(self, rows: Rows) -> Tensor:
        """Return the advantages [B, T] float32 of `rows`, all of `rollout`, 0 behind their ends."""
        mask = rows.completion_mask
        values = self.of_tokens.float()
        if values.ndim == 2:
            return values.reshape(-1, 1).expand(mask.shape)
        width = mask.shape[1]
        flat = torch.nn.functional.pad(values, (0, max(0, width - values.shape[2])))
        return torch.where(mask, flat[..., :width].reshape(mask.shape), 0.0)


class Credit:
    """Adds what `shaping` says to the rewards, then asks `advantage`, then `shaping` again."""

    def __init__(self, advantage: Advantage, shaping: Shaping | None) -> None:
        self._advantage = advantage
        self._shaping = shaping

    @property
    def reads_policy(self) -> bool:
        """Whether completions must come with what the policy says of their tokens."""
        return any(part.reads_policy for part in self._parts.values())

    @property
    def _parts(self) -> dict[str, Remembering]:
        parts = {"advantage": self._advantage, "shaping": self._shaping}
        return {name: part for name, part in parts.items() if part is not None}

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the parts by name."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])

    def __call__(self, rollout: Rollout, places: Places, step: int) -> Credited:
        """Credit the groups of this rank. Every rank calls it, also without groups."""
        everyone = replace(gather.rollout(rollout), step=step)
        if not everyone.prompts:  # dynamic sampling may have kept none
            return Credited(rollout, everyone, rollout.scores.total)
        if self._shaping is not None:
            values = self._values(everyone, self._shaping)
            weight = self._shaping.weight
            shaped = rollout.scores.plus("shaping", values[places.own], weight)
            rollout = replace(rollout, scores=shaped)
            everyone = replace(everyone, scores=everyone.scores.plus("shaping", values, weight))
        with named(self._advantage, "advantage"):
            advantages = self._advantage(everyone)
        advantages = _checked(advantages, self._advantage, "advantage", everyone)
        if self._shaping is not None:
            with named(self._shaping, "shaping"):
                changed = self._shaping.advantages(advantages, everyone)
            advantages = _checked_tokens(changed, self._shaping, everyone)
        return Credited(rollout, everyone, advantages[places.own])

    def monitors(self, step: int) -> int:
        """Return how many problems beside the batch `shaping` wants to see at this step."""
        if self._shaping is None:
            return 0
        with named(self._shaping, "shaping"):
            return self._shaping.monitors(step)

    def learn(
        self, everyone: Rollout, dropped: Rollout, any_dropped: bool, monitored: Rollout
    ) -> None:
        """Tell the parts of a step; `dropped` and `monitored` are this rank's. Every rank calls
        it."""
        if self._shaping is not None and self.monitors(everyone.step):
            monitored = replace(gather.rollout(monitored), step=everyone.step)
            with named(self._shaping, "shaping"):
                self._shaping.learn_monitored(monitored)
        if any_dropped:
            dropped = replace(gather.rollout(dropped), step=everyone.step)
        for name, part in self._parts.items():
            with named(part, name):
                part.learn(everyone, dropped)

    def _values(self, everyone: Rollout, shaping: Shaping) -> Tensor:
        with named(shaping, "shaping"):
            values = shaping.values(everyone)
        if isinstance(values, Tensor) and values.shape == everyone.scores.total.shape:
            values = torch.where(everyone.scores.scored, values, 0.0).to(values.dtype)
        return _checked(values, shaping, "shaping", everyone)


def _checked(values: object, part: object, place: str, everyone: Rollout) -> Tensor:
    shape = tuple(everyone.scores.total.shape)
    return check_values(values, part, place, shape, _uids(everyone))


def _checked_tokens(values: object, shaping: Shaping, everyone: Rollout) -> Tensor:
    """Return [P, G] or [P, G, T]. Raises PartError."""
    if not isinstance(values, Tensor) or values.ndim != 3:
        return _checked(values, shaping, "shaping", everyone)
    longest = int(everyone.lengths.max())
    if values.shape[2] < longest:
        raise PartError(
            f"shaping {path_of(shaping)} returns advantages of {values.shape[2]} tokens, and the "
            f"longest completion has {longest}; return one for each token"
        )
    shape = (*everyone.scores.total.shape, values.shape[2])
    return check_values(values, shaping, "shaping", shape, _uids(everyone))


def _uids(everyone: Rollout) -> Sequence[str]:
    return [prompt.uid for prompt in everyone.prompts]
