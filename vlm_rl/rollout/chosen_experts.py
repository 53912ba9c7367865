"""The experts that the routers of a mixture choose in a rollout, kept for every completion."""

import torch
from torch import Tensor

from vlm_rl.model.routing import Recorder


class ChosenExperts:
    """Collects them, on the CPU, from the forwards of a batch of prompts with `group_size` rows
    each. `prompts` has heard the prompts, whose tokens are where `attention` [P, S] is not 0."""

    def __init__(self, prompts: Recorder, attention: Tensor, group_size: int) -> None:
        laid = prompts.experts().cpu().unflatten(0, attention.shape)
        own = zip(laid, attention.cpu().bool(), strict=True)
        self._prompts = [experts[is_real] for experts, is_real in own]
        self._group_size = group_size
        self._steps: list[tuple[Tensor, Tensor]] = []

    def append(self, rows: Tensor, tokens: Recorder) -> None:
        """Keep those of the next token of `rows` [R]."""
        self._steps.append((rows.cpu(), tokens.experts().cpu()))

    def of_rows(self, lengths: list[int]) -> list[Tensor]:
        """Return [S + T - 1, L, K] of each row; T are its `lengths`, the last token is not read."""
        like = self._prompts[0]
        laid = like.new_zeros(len(lengths), len(self._steps), *like.shape[1:])
        for step, (rows, experts) in enumerate(self._steps):
            laid[rows, step] = experts
        return [
            torch.cat([self._prompts[row // self._group_size], laid[row, : max(length - 1, 0)]])
            for row, length in enumerate(lengths)
        ]
