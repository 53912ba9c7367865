"""Rows of numbered tokens behind text prompts, and what a cut of them must keep."""

from itertools import count

import torch

from tests.support.objective_cases import text_prompt
from vlm_rl.records import Completion, Rows


def completion(ids: list[int]) -> Completion:
    logprobs = torch.tensor([-id / 10 for id in ids], dtype=torch.float32)
    return Completion(torch.tensor(ids, dtype=torch.int64), logprobs, "stop", "")


def rows_of(
    lengths: list[list[int]], prompt_lengths: list[int], trained: list[list[bool]] | None = None
) -> Rows:
    """Build groups of completions of these lengths; the ids of row i are 100 i, 100 i + 1, ..."""
    first_ids = count(0, 100)

    def numbered(length: int) -> Completion:
        first = next(first_ids)
        return completion(list(range(first, first + length)))

    groups = [[numbered(length) for length in group] for group in lengths]
    keep = trained or [[True] * len(group) for group in lengths]
    prompts = [text_prompt(f"p{i}", length) for i, length in enumerate(prompt_lengths)]
    return Rows.build(prompts, groups, torch.tensor([flag for group in keep for flag in group]))


def seen(rows: Rows) -> list[tuple[str, list[int]]]:
    """Each row as (uid of its prompt, its trained ids): what a cut must keep, in order."""
    return [
        (rows.prompts[owner].uid, ids[mask].tolist())
        for owner, ids, mask in zip(
            rows.row_prompt.tolist(), rows.completion_ids, rows.completion_mask, strict=True
        )
    ]
