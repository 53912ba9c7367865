"""The group-shared layout: each prompt once, its completions behind it, all in one row.

A group of G completions takes the prompt's positions once and not G times, and the vision tower
sees each image once. A completion attends to its own prompt and to itself. Its rotary positions
start right after those of its prompt. Values and gradients equal those of the plain forward
(tests/model/test_policy.py).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vlm_rl.records import Prompt, Rows


@dataclass(frozen=True, eq=False)
class Packed:
    """One forward. S token positions; N completion tokens in row-major order of the rows' mask.

    `token_ids` [1, S]; `positions` [3, 1, S]; `prompt_of` [S] and `segment` [S] say to which
    prompt and which part of it a token belongs (0 the prompt itself, k its k-th completion);
    `predictors` [N] index the position whose hidden state predicts `targets` [N].
    """

    token_ids: Tensor
    positions: Tensor
    prompt_of: Tensor
    segment: Tensor
    pixel_values: Tensor | None
    grid_thw: Tensor | None
    predictors: Tensor
    targets: Tensor


def pack(rows: Rows) -> Packed:
    """Lay out the prompts and completions of `rows` in one row.

    Rows must be ordered by prompt, as `Rows` keeps them. Only trainable tokens are laid out, so an
    empty row takes no position.
    """
    token_ids: list[Tensor] = []
    positions: list[Tensor] = []
    prompt_of: list[Tensor] = []
    segment: list[Tensor] = []
    predictors = [torch.zeros(0, dtype=torch.int64)]  # there may be no completion
    offset = 0

    def lay(ids: Tensor, at: Tensor, prompt: int, part: int) -> None:
        token_ids.append(ids)
        positions.append(at)
        prompt_of.append(torch.full((len(ids),), prompt))
        segment.append(torch.full((len(ids),), part))

    lengths = rows.lengths.tolist()
    for index, prompt in enumerate(rows.prompts):
        lay(prompt.token_ids, prompt.positions, index, 0)
        last_of_prompt = offset + len(prompt) - 1
        offset += len(prompt)
        own = (rows.row_prompt == index).nonzero()[:, 0].tolist()
        for part, row in enumerate(own, start=1):
            length = lengths[row]
            at = prompt.next_position + torch.arange(length)
            lay(rows.completion_ids[row, :length].cpu(), at.expand(3, -1), index, part)
            # the first token is predicted by the prompt's end, the others by the one before
            before = torch.arange(offset - 1, offset + length - 1)
            before[:1] = last_of_prompt
            predictors.append(before)
            offset += length
    pixel_values, grid_thw = _vision(rows.prompts)
    return Packed(
        token_ids=torch.cat(token_ids)[None],
        positions=torch.cat(positions, dim=1)[:, None],
        prompt_of=torch.cat(prompt_of),
        segment=torch.cat(segment),
        pixel_values=pixel_values,
        grid_thw=grid_thw,
        predictors=torch.cat(predictors),
        targets=rows.completion_ids[rows.completion_mask],
    )


def _vision(prompts: tuple[Prompt, ...]) -> tuple[Tensor | None, Tensor | None]:
    pixels = [p.pixel_values for p in prompts if p.pixel_values is not None]
    grids = [p.grid_thw for p in prompts if p.grid_thw is not None]
    return (torch.cat(pixels), torch.cat(grids)) if pixels else (None, None)


def shared_prefix_mask(prompt_of: Tensor, segment: Tensor) -> Tensor:
    """Return [1, 1, S, S] bool: whether a query (row) attends to a key (column).

    Only this function knows who sees whom. A block-mask kernel needs the same three conditions on
    (query, key) and nothing else.
    """
    index = torch.arange(len(segment), device=segment.device)
    earlier = index[:, None] >= index[None]
    same_prompt = prompt_of[:, None] == prompt_of[None]
    visible = (segment[None] == 0) | (segment[:, None] == segment[None])
    return (earlier & same_prompt & visible)[None, None]
