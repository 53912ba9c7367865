"""Steps for shapings: groups with given verdicts and lengths."""

import random
from collections.abc import Sequence

import torch

from tests.support.objective_cases import text_prompt
from vlm_rl.records import Completion, Rollout, Scores, Verdict

Marks = Sequence[str]
"""A string per group, of a letter per completion: right, wrong or unscored."""
VERDICTS = {"r": Verdict.CORRECT, "w": Verdict.WRONG, "u": Verdict.TIMEOUT}


def step_of(
    marks: Marks,
    lengths: Sequence[Sequence[int]],
    *,
    uids: Sequence[str] | None = None,
    step: int = 0,
    entropy: float = 0.5,
) -> Rollout:
    """Return a rollout; a right answer has a reward of 1, token k an entropy of `entropy` (k + 1)
    and the id k."""
    uids = uids or [f"p{i}" for i in range(len(marks))]
    groups = [[_completion(n, entropy) for n in row] for row in lengths]
    verdicts = [[VERDICTS[mark] for mark in row] for row in marks]
    total = torch.tensor([[float(mark == "r") for mark in row] for row in marks]).double()
    total = total.reshape(len(marks), len(marks[0]) if marks else 4)
    scores = Scores({"accuracy": total}, total, verdicts, {"accuracy": 1.0})
    return Rollout([text_prompt(uid) for uid in uids], groups, scores, step)


def _completion(length: int, entropy: float) -> Completion:
    tokens = torch.arange(length)
    return Completion(
        tokens,
        torch.zeros(length),
        "stop",
        "",
        logprobs=torch.zeros(length),
        entropies=entropy * (tokens + 1).float(),
    )


def drawn_step(rng: random.Random, *, num_groups: int = 5, size: int = 4, step: int = 0) -> Rollout:
    """Draw a step; answers may be empty, groups all right, all wrong or without a score."""
    kinds = ["rw", "rwu", "r", "w", "u", "rrrw", "rwww"]
    marks = ["".join(rng.choices(rng.choice(kinds), k=size)) for _ in range(num_groups)]
    lengths = [[rng.choice([0, 1, 2, 5, 9, 30]) for _ in range(size)] for _ in range(num_groups)]
    uids = rng.sample([f"p{i}" for i in range(2 * num_groups)], num_groups)
    return step_of(marks, lengths, uids=uids, step=step)


NOTHING = step_of([], [])
