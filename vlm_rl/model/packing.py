"""The group-shared layout: each prompt once, its completions behind it, all in one row.

A group of G completions takes the prompt's positions once and not G times, and the vision tower
sees each image once. A completion attends to its own prompt and to itself. Its rotary positions
start right after those of its prompt. Values and gradients equal those of the plain forward
(tests/model/test_policy.py).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vlm_rl.model.attention import Group
from vlm_rl.model.vision import Images, images_of
from vlm_rl.records import Rows


@dataclass(frozen=True, eq=False)
class Packed:
    """One forward. S token positions; N completion tokens in row-major order of the rows' mask.

    `token_ids` [1, S]; `positions` [3, 1, S]; `groups` say how long the prompts and completions
    are that the row is made of; `images` are those of the prompts, each content once, and
    `image_keys` name the content of every one in the order of the row; `predictors` [N] index the
    position whose hidden state predicts `targets` [N]. `experts` [S, L, K] int16 are those that the
    engine chose, -1 where it does not say; None if it never does.
    """

    token_ids: Tensor
    positions: Tensor
    groups: tuple[Group, ...]
    images: dict[bytes, Images]
    image_keys: tuple[bytes, ...]
    predictors: Tensor
    targets: Tensor
    experts: Tensor | None = None


def pack(rows: Rows) -> Packed:
    """Lay out the prompts and completions of `rows` in one row.

    Rows must be ordered by prompt, as `Rows` keeps them. Only trainable tokens are laid out, so an
    empty row takes no position.
    """
    lengths = rows.lengths.cpu()
    sizes = torch.tensor([len(prompt) for prompt in rows.prompts])
    prompts_before, rows_before = sizes.cumsum(0) - sizes, lengths.cumsum(0) - lengths
    answers = torch.zeros_like(sizes).index_add(0, rows.row_prompt, lengths)
    prompt_start = prompts_before + answers.cumsum(0) - answers
    row_start = (prompts_before + sizes)[rows.row_prompt] + rows_before

    row, step = rows.completion_mask.cpu().nonzero(as_tuple=True)
    owner = rows.row_prompt[row]
    of_completions = row_start[row] + step
    of_prompts = torch.arange(int(sizes.sum())) + (prompt_start - prompts_before).repeat_interleave(
        sizes
    )
    next_position = torch.tensor([prompt.next_position for prompt in rows.prompts])
    targets = rows.completion_ids.cpu()[row, step]
    token_ids = torch.empty(len(of_prompts) + len(of_completions), dtype=torch.int64)
    token_ids[of_prompts] = torch.cat([prompt.token_ids for prompt in rows.prompts])
    token_ids[of_completions] = targets
    positions = torch.empty(3, len(token_ids), dtype=torch.int64)
    positions[:, of_prompts] = torch.cat([prompt.positions for prompt in rows.prompts], dim=1)
    positions[:, of_completions] = next_position[owner] + step
    return Packed(
        token_ids=token_ids[None],
        positions=positions[:, None],
        groups=groups_of(rows),
        images={key: image for p in rows.prompts for key, image in images_of(p).items()},
        image_keys=tuple(key for prompt in rows.prompts for key in prompt.image_keys),
        # the first token is predicted by the prompt's end, the others by the one before
        predictors=torch.where(step == 0, (prompt_start + sizes - 1)[owner], of_completions - 1),
        targets=targets,
        experts=_experts_of(rows, len(token_ids), prompt_start, row_start),
    )


def _experts_of(rows: Rows, size: int, prompt_start: Tensor, row_start: Tensor) -> Tensor | None:
    """Lay out the experts of the rows; those of a prompt are the same in each of its rows.

    The last token of a row predicts nothing, and no engine computes it.
    """
    known = [experts for experts in rows.experts if experts is not None]
    if not known:
        return None
    laid = torch.full((size, *known[0].shape[1:]), -1, dtype=torch.int16)
    lengths, owners = rows.lengths.tolist(), rows.row_prompt.tolist()
    for row, experts in enumerate(rows.experts):
        if experts is None or not lengths[row]:
            continue
        before, start = len(rows.prompts[owners[row]]), int(prompt_start[owners[row]])
        own = experts[before : before + lengths[row]]
        laid[start : start + before] = experts[:before]
        laid[row_start[row] : int(row_start[row]) + len(own)] = own
    return laid


def groups_of(rows: Rows) -> tuple[Group, ...]:
    """Return the lengths of the prompts of `rows` and of their completions that are not empty."""
    completions: list[list[int]] = [[] for _ in rows.prompts]
    for owner, length in zip(rows.row_prompt.tolist(), rows.lengths.tolist(), strict=True):
        if length:
            completions[owner].append(length)
    pairs = zip(rows.prompts, completions, strict=True)
    return tuple(Group(len(prompt), tuple(own)) for prompt, own in pairs)
