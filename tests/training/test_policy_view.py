"""What rewards are told of the policy: its own log-probabilities and entropies of each token.

Mutations tried, each seen red: entropies for log-probabilities; the rows of a completion cut short.
"""

from pathlib import Path

import pytest
import torch

from tests.support.run_helpers import problems
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.records import Completion, Prompt, Rows
from vlm_rl.training.policy_view import PolicyView


@pytest.fixture(scope="module")
def prompts(policy_folder: Path) -> list[Prompt]:
    encoder = PromptEncoder(str(policy_folder))
    return [encoder.encode(problem) for problem in problems(2)]


@pytest.mark.parametrize("micro_batch_tokens", [1, 200, 10_000])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_view_is_that_of_each_completion_alone(
    policy_folder: Path, prompts: list[Prompt], temperature: float, micro_batch_tokens: int
) -> None:
    policy = Policy.from_pretrained(str(policy_folder))
    generator = torch.Generator().manual_seed(0)
    lengths = [[3, 1, 0], [9, 4, 2]]
    groups = [[_completion(length, generator) for length in row] for row in lengths]
    view = PolicyView(policy, micro_batch_tokens=micro_batch_tokens)
    seen = view.seen(prompts, groups, temperature)
    for prompt, group, row in zip(prompts, groups, seen, strict=True):
        for completion, told in zip(group, row, strict=True):
            assert told.token_ids is completion.token_ids
            assert told.logprobs.shape == told.entropies.shape == completion.token_ids.shape
            if not len(completion):
                continue
            alone = Rows.build([prompt], [[completion]], torch.ones(1, 1, dtype=torch.bool))
            with torch.no_grad():
                right = policy.logprobs(alone, temperature=temperature or 1.0, with_entropy=True)
            torch.testing.assert_close(told.logprobs, right.logprobs[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(told.entropies, right.entropy[0], rtol=0, atol=1e-5)
    assert all(c.logprobs is None for group in groups for c in group), "the records are not changed"


def test_view_without_prompts_is_empty(policy_folder: Path) -> None:
    view = PolicyView(Policy.from_pretrained(str(policy_folder)), micro_batch_tokens=100)
    assert view.seen([], [], 1.0) == []


def _completion(length: int, generator: torch.Generator) -> Completion:
    ids = torch.randint(5, 60, (length,), generator=generator)
    return Completion(ids, torch.zeros(length), "stop", "")
