"""A frozen vision tower runs once for an image; what it made serves every forward.

Broken on purpose, one at a time, each seen red: features in the order of the contents instead of
the row's; features kept of a step forgotten within it; the oldest kept instead of the last used;
one image of two that are equal; the deep features of Qwen3-VL left out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.support.oracles import plain_logprobs
from tests.support.tiny import FAMILIES, problem, prompts_of, random_rows, sharp_policy
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.distributed.lockstep import smallest_prompt
from vlm_rl.model.packing import pack
from vlm_rl.model.policy import Policy
from vlm_rl.model.vision import KeptFeatures, images_of
from vlm_rl.records import Prompt

LENGTHS = (9, 1, 0, 14, 5)

every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def encoders(checkpoints: dict[str, Path]) -> dict[str, PromptEncoder]:
    return {family: PromptEncoder(str(folder)) for family, folder in checkpoints.items()}


@pytest.fixture(scope="module")
def policies(checkpoints: dict[str, Path]) -> dict[str, Policy]:
    return {name: sharp_policy(path, freeze=["vision_tower"]) for name, path in checkpoints.items()}


def kept_of(policy: Policy, max_bytes: int = 2**20) -> KeptFeatures:
    (filler,) = images_of(smallest_prompt(policy)).values()
    return KeptFeatures(policy.encode, filler, max_bytes)


@contextmanager
def counting(policy: Policy) -> Iterator[list[int]]:
    """Count the patches of each run of the tower."""
    seen: list[int] = []
    hook = policy.part("vision_tower").register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(args[0] if args else kwargs["hidden_states"])),
        with_kwargs=True,
    )
    with hook:
        yield seen


@every_family
@pytest.mark.parametrize("name", ["one image", "several images", "no image", "mixed"])
def test_kept_features_give_the_values_and_gradients_of_the_tower_itself(
    family: str, name: str, policies: dict[str, Policy], encoders: dict[str, PromptEncoder]
) -> None:
    policy = policies[family]
    rows = random_rows(prompts_of(encoders[family], name), LENGTHS)
    kept = kept_of(policy)
    kept.prepare(rows.prompts)
    results = []
    with counting(policy) as runs:
        for features in (kept, None):
            policy.zero_grad()
            stats = policy.logprobs(rows, temperature=1.0, kept=features)
            stats.logprobs.sum().backward()
            gradients = {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}
            results.append((stats.logprobs, gradients))
    assert len(runs) == (name != "no image")  # of the second alone
    (ours, our_gradients), (theirs, their_gradients) = results
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-5)
    assert our_gradients.keys() == their_gradients.keys()
    for parameter, gradient in their_gradients.items():
        torch.testing.assert_close(our_gradients[parameter], gradient, rtol=1e-4, atol=1e-4)


@every_family
@pytest.mark.parametrize("frozen", [True, False])
def test_an_image_of_two_prompts_is_seen_once_and_serves_both(
    family: str, frozen: bool, policies: dict[str, Policy], encoders: dict[str, PromptEncoder]
) -> None:
    policy, encoder = policies[family], encoders[family]
    # the same picture in two questions, and another one between them
    questions = (("Count <image>", (32, 64)), ("Is <image> red?", (48, 48)), ("<image>?", (32, 64)))
    prompts = [
        encoder.encode(problem(text, size, uid=str(i))) for i, (text, size) in enumerate(questions)
    ]
    rows = random_rows(prompts, LENGTHS)
    assert len(pack(rows).images) == 2
    kept = kept_of(policy) if frozen else None
    with torch.no_grad(), counting(policy) as runs:
        if kept is not None:
            assert kept.prepare(rows.prompts) == 2
        ours = policy.logprobs(rows, temperature=1.0, kept=kept).logprobs
    patches = [len(prompt.pixel_values) for prompt in prompts[:2] if prompt.images]
    assert runs == (patches if frozen else [sum(patches)])
    with torch.no_grad():
        plain, _ = plain_logprobs(policy.model, rows, banned_ids=policy.banned_ids)
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-5)


def test_features_do_not_depend_on_what_was_kept(
    policies: dict[str, Policy], encoders: dict[str, PromptEncoder]
) -> None:
    policy = policies["qwen3_vl"]
    prompts = prompts_of(encoders["qwen3_vl"], "mixed")
    fresh, warm = kept_of(policy), kept_of(policy)
    warm.prepare(prompts[:1])
    fresh.prepare(prompts)
    assert warm.prepare(prompts) == 2
    for prompt in prompts:
        for one, other in zip(fresh.of(prompt.image_keys), warm.of(prompt.image_keys), strict=True):
            assert torch.equal(one.tokens, other.tokens)
            assert len(one.deep) == len(other.deep) == 1
            assert torch.equal(one.deep[0], other.deep[0])


def test_no_more_is_kept_than_allowed_but_all_of_a_step(
    policies: dict[str, Policy], encoders: dict[str, PromptEncoder]
) -> None:
    policy, encoder = policies["qwen2_5_vl"], encoders["qwen2_5_vl"]
    sizes = ((32, 32), (32, 48), (48, 32), (48, 48))
    a, b, c, d = (encoder.encode(problem("<image>?", size)) for size in sizes)
    room_for_two = kept_of(policy, max_bytes=_num_bytes(policy, a) + _num_bytes(policy, b))
    room_for_two.prepare([a])
    room_for_two.prepare([b])
    assert room_for_two.prepare([a]) == 0  # now the last used
    assert room_for_two.prepare([c]) == 1
    room_for_two.of(a.image_keys + c.image_keys)
    with pytest.raises(KeyError):
        room_for_two.of(b.image_keys)
    nothing = kept_of(policy, max_bytes=0)
    nothing.prepare([a, b, c, d])
    assert len(nothing.of([key for prompt in (a, b, c, d) for key in prompt.image_keys])) == 4
    assert nothing.prepare([a]) == 0
    assert nothing.prepare([b]) == 1


def _num_bytes(policy: Policy, prompt: Prompt) -> int:
    kept = kept_of(policy)
    kept.prepare([prompt])
    return sum(features.num_bytes for features in kept.of(prompt.image_keys))
