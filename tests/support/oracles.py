"""The plain forward: the oracle of the packed, group-shared forward.

One row per completion, padded to one width; each repeats the prompt and the pixels of its images.
transformers computes rotary positions and attention, and the logits are built whole. Nothing here
uses `vlm_rl.model.packing`, `vlm_rl.model.logprobs` or the positions in the prompts.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from vlm_rl.model.attention import Group
from vlm_rl.records import Rows


def plain_logprobs(
    model: Any,
    rows: Rows,
    *,
    temperature: float = 1.0,
    banned_ids: Tensor | None = None,
    padding: Literal["left", "right"] = "left",
) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and entropies of the completions, [B, T], 0 in the padding."""
    logits = plain_logits(model, rows, padding=padding) / temperature
    if banned_ids is not None:
        logits = logits.index_fill(-1, banned_ids, float("-inf"))
    log_p = torch.log_softmax(logits, -1)
    mask = rows.completion_mask.to(log_p.device)
    targets = rows.completion_ids.to(log_p.device).where(mask, 0)
    chosen = log_p.gather(-1, targets[..., None])[..., 0]
    surprise = torch.where(log_p == float("-inf"), 0.0, log_p)
    entropy = -(log_p.exp() * surprise).sum(-1)
    return torch.where(mask, chosen, 0.0), torch.where(mask, entropy, 0.0)


def plain_logits(model: Any, rows: Rows, *, padding: Literal["left", "right"] = "left") -> Tensor:
    """Return the logits that predict each completion token, [B, T, V]; arbitrary in the padding."""
    prompts = [rows.prompts[index] for index in rows.row_prompt.tolist()]
    lengths = rows.lengths.tolist()
    width = max(len(p) + n for p, n in zip(prompts, lengths, strict=True))
    token_ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    attention = torch.zeros_like(token_ids)
    starts = []
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        ids = torch.cat([prompt.token_ids, rows.completion_ids[row, :length]])
        first = width - len(ids) if padding == "left" else 0
        token_ids[row, first : first + len(ids)] = ids
        attention[row, first : first + len(ids)] = 1
        starts.append(first + len(prompt) - 1)
    vision = {}
    pixels = [p.pixel_values for p in prompts if p.pixel_values is not None]
    if pixels:
        vision["pixel_values"] = torch.cat(pixels)
        vision["image_grid_thw"] = torch.cat([p.grid_thw for p in prompts if p.images])
    logits: Tensor = model(
        input_ids=token_ids.to(model.device),
        attention_mask=attention.to(model.device),
        mm_token_type_ids=(token_ids == model.config.image_token_id).int().to(model.device),
        use_cache=False,
        **{name: tensor.to(model.device) for name, tensor in vision.items()},
    ).logits
    steps = torch.arange(rows.completion_mask.shape[1])
    columns = (torch.tensor(starts)[:, None] + steps).clamp(max=width - 1)
    return logits[torch.arange(len(prompts))[:, None], columns]


def dense_mask(groups: Sequence[Group]) -> Tensor:
    """Return [S, S] bool: whether a query (row) of a packed row attends to a key (column)."""
    pieces = [
        (owner, part, n)
        for owner, group in enumerate(groups)
        for part, n in enumerate((group.prompt, *group.completions))
    ]
    prompt_of = torch.tensor([owner for owner, _, n in pieces for _ in range(n)])
    part_of = torch.tensor([part for _, part, n in pieces for _ in range(n)])
    index = torch.arange(len(part_of))
    earlier = index[:, None] >= index[None]
    same_prompt = prompt_of[:, None] == prompt_of[None]
    visible = (part_of[None] == 0) | (part_of[:, None] == part_of[None])
    return earlier & same_prompt & visible
