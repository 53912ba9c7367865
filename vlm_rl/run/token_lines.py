"""What a step did to single tokens, as JSON lines beside the rollouts."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vlm_rl.training.step import Step

CLIPPED = ("", "low", "high", "dual")
"""Names of the codes in `TokenEffects.clipped`."""

_BYTES_OF_A_CHARACTER = 4


def token_lines(step: Step, tokenizer: Any, num_groups: int) -> Iterator[dict[str, Any]]:
    """Yield a line for each completion of at most `num_groups` groups of the step's last update.

    `line` is the number, from 0, of the completion in the step's rollout file. Lists have an entry
    per token: `text`, `entropy`, `ratio`, `clipped`, `advantage`, `logprob` before the updates.
    """
    known = (step.tokens.ratio.isfinite() & step.rows.completion_mask).any(-1).cpu()
    owners = step.rows.row_prompt.cpu()
    last = owners[known].unique()[-num_groups:] if num_groups else owners[:0]
    lines = (known & torch.isin(owners, last)).nonzero()[:, 0]
    chosen = lines.to(step.rows.completion_mask.device)
    columns = {
        "logprob": step.rows.old_logprobs[chosen],
        "entropy": step.tokens.entropy[chosen],
        "ratio": step.tokens.ratio[chosen],
        "advantage": step.rows.advantages[chosen],
    }
    rows = {name: values.cpu() for name, values in columns.items()}
    clipped = step.tokens.clipped[chosen].long().cpu()
    ids, lengths = step.rows.completion_ids[chosen].cpu(), step.rows.lengths[chosen].tolist()
    for row, (line, length) in enumerate(zip(lines.tolist(), lengths, strict=True)):
        yield {
            "line": line,
            "uid": step.rows.prompts[int(owners[line])].uid,
            "text": pieces(ids[row, :length].tolist(), tokenizer),
            "clipped": [CLIPPED[code] for code in clipped[row, :length].tolist()],
            **{name: _short(values[row, :length]) for name, values in rows.items()},
        }


def pieces(token_ids: list[int], tokenizer: Any) -> list[str]:
    """Return the text of each token. Tokens that share a character leave it to the last of them."""
    texts: list[str] = []
    waiting: list[int] = []
    for token in token_ids:
        waiting.append(token)
        text = tokenizer.decode(waiting, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd") and len(waiting) < _BYTES_OF_A_CHARACTER:
            texts.append("")
            continue
        texts.append(text)
        waiting = []
    if waiting:  # the budget ended inside a character
        texts[-1] = tokenizer.decode(waiting, clean_up_tokenization_spaces=False)
    return texts


def _short(values: Tensor) -> list[float | None]:
    """Return four digits of each, None for what is not known."""
    return [float(f"{v:.4g}") if math.isfinite(v) else None for v in values.tolist()]
