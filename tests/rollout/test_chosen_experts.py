"""The experts that the transformers engine returns, and a policy that takes them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.mixtures import MIXTURES, routers
from tests.support.run_helpers import build_module, problems, run_module
from tests.support.tiny import prompts_of, sharp_policy
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.distributed.gather import Places
from vlm_rl.model.policy import Policy
from vlm_rl.model.reference import reference_of
from vlm_rl.records import Batch, Completion, Prompt, Rows
from vlm_rl.rollout import Sampling, TransformersEngine
from vlm_rl.training.module import UpdateSettings

every_mixture = pytest.mark.parametrize("family", MIXTURES)


def sampled(
    policy: Policy, folder: Path, *, max_rows: int = 256
) -> tuple[list[Prompt], list[list[Completion]]]:
    encoder = PromptEncoder(str(folder))
    prompts = prompts_of(encoder, "mixed")
    engine, sampling = TransformersEngine(max_rows), Sampling(1.0, 40)
    engine.start(policy, encoder, sampling)
    return prompts, engine.generate(prompts, group_size=6, sampling=sampling, seed=1)


def rows_of(prompts: Sequence[Prompt], groups: Sequence[Sequence[Completion]]) -> Rows:
    return Rows.build(prompts, groups, torch.ones(len(groups), len(groups[0]), dtype=torch.bool))


@contextmanager
def perturbed(policy: Policy) -> Iterator[None]:
    """Let the routers see what they would see after an update, or in another precision."""
    before = [router.weight.detach().clone() for router in routers(policy)]  # type: ignore[operator]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for router in routers(policy):
            router.weight.add_(0.02 * torch.randn(router.weight.shape, generator=generator))  # type: ignore
    torch.clear_autocast_cache()  # of weights before they were changed in place
    yield
    torch.clear_autocast_cache()
    with torch.no_grad():
        for router, weight in zip(routers(policy), before, strict=True):
            router.weight.copy_(weight)  # type: ignore[operator]


@every_mixture
@pytest.mark.parametrize("max_rows", [6, 256])
def test_experts_of_the_engine_are_those_of_the_policy(
    family: str, max_rows: int, checkpoints: dict[str, Path]
) -> None:
    policy = sharp_policy(checkpoints[family])
    prompts, groups = sampled(policy, checkpoints[family], max_rows=max_rows)
    lengths = {len(completion) for group in groups for completion in group}
    assert len(lengths) > 1  # rows leave on the way
    config = policy.model.config.get_text_config()
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            experts = completion.experts
            assert experts is not None
            shape = (
                len(prompt) + len(completion) - 1,
                policy.num_routers,
                config.num_experts_per_tok,
            )
            assert (experts.shape, experts.dtype) == (shape, torch.uint8)
    with torch.no_grad():
        routing = policy.logprobs(rows_of(prompts, groups), temperature=1.0).routing
    assert routing is not None
    assert routing.known.all()
    # equal but for near ties, of float32 sums in two orders
    assert int((routing.differing > 0).sum()) <= 1


@every_mixture
def test_taking_the_engines_experts_brings_its_log_probabilities_back(
    family: str, checkpoints: dict[str, Path]
) -> None:
    """The engine in bfloat16, the policy in float32: where a router chooses otherwise, whole
    experts are exchanged. With the engine's, bfloat16 rounding is what remains."""
    policy = sharp_policy(checkpoints[family], scale=2.0)
    with torch.autocast("cpu", torch.bfloat16):
        prompts, groups = sampled(policy, checkpoints[family])
    rows = rows_of(prompts, groups)
    drift = {}
    for replays in (False, True):
        policy.replays_experts = replays
        with torch.no_grad():
            stats = policy.logprobs(rows, temperature=1.0)
        difference = (stats.logprobs - rows.sampling_logprobs)[rows.completion_mask]
        drift[replays] = float(difference.square().mean().sqrt())
        assert stats.routing is not None
        assert 0.01 < float((stats.routing.differing > 0).double().mean()) < 0.5
    assert drift[True] < 0.8 * drift[False], drift


@every_mixture
@pytest.mark.parametrize("replays", [False, True])
def test_ratios_before_the_first_update_are_exactly_1(
    family: str, replays: bool, checkpoints: dict[str, Path]
) -> None:
    """Bit by bit, in bfloat16, because old log-probabilities are cut as the update is. Of the
    same forward with perturbed routers they are not, whether or not the experts are kept."""
    folder = checkpoints[family]
    policy = sharp_policy(folder)
    policy.replays_experts = replays
    prompts, groups = sampled(policy, folder)
    settings = UpdateSettings(num_minibatches=2, micro_batch_tokens=300)
    module = build_module(policy, PromptEncoder(str(folder)), updates=settings, group_size=6)
    rows = rows_of(prompts, groups)
    with torch.autocast("cpu", torch.bfloat16):
        cut = module.lockstep.cut(rows, Places.of([4]))
        old = module.forwards.logprobs(policy, rows, cut)
        batch = Batch.of(rows, old_logprobs=old, ref_logprobs=None, advantages=torch.ones(4, 6))
        for minibatch in cut.minibatches(batch):
            for forward in minibatch.forwards:
                now = policy.logprobs(forward, temperature=1.0)
                assert torch.equal(now.logprobs, forward.old_logprobs)
                with perturbed(policy):
                    other = policy.logprobs(forward, temperature=1.0)
                assert not torch.equal(other.logprobs, forward.old_logprobs)
                for stats in (now, other):
                    assert stats.routing is not None
                same = torch.equal(other.routing.counts, now.routing.counts)  # type: ignore
                assert same == replays


@every_mixture
def test_reference_chooses_for_itself(family: str, checkpoints: dict[str, Path]) -> None:
    policy = sharp_policy(checkpoints[family])
    policy.replays_experts = True
    prompts, groups = sampled(policy, checkpoints[family])
    rows = rows_of(prompts, groups)
    others = tuple(e if e is None else (e + 1) % 8 for e in rows.experts)
    reference = reference_of(policy)
    expected = reference.logprobs(replace(rows, experts=()), temperature=1.0).logprobs
    got = reference.logprobs(replace(rows, experts=others), temperature=1.0).logprobs
    assert torch.equal(got, expected)
    with torch.no_grad():
        taken = policy.logprobs(replace(rows, experts=others), temperature=1.0).logprobs
    assert (taken - expected).abs().max() > 0.1


@every_mixture
@pytest.mark.parametrize("replays", [False, True])
@pytest.mark.parametrize("minibatches", [1, 2])
def test_steps_measure_routers_and_their_mismatch(
    family: str, replays: bool, minibatches: int, checkpoints: dict[str, Path]
) -> None:
    policy = Policy.from_pretrained(str(checkpoints[family]), router_replay=replays)
    encoder = PromptEncoder(str(checkpoints[family]))
    settings = UpdateSettings(num_minibatches=minibatches, micro_batch_tokens=200)
    module = build_module(policy, encoder, updates=settings, steps=2)
    prompts = [encoder.encode(problem) for problem in problems(4)]
    run_module(module, prompts)
    config = policy.model.config.get_text_config()
    even = 1 / config.num_experts
    for metrics in module.metrics:
        assert even < metrics["router/most_loaded_frac"] <= 1 / config.num_experts_per_tok
        assert 0 < metrics["router/entropy"] < torch.tensor(config.num_experts).log()
        assert 0 < metrics["router/load_cv"] < config.num_experts**0.5
        assert 0 <= metrics["router/unused_frac"] < 1
        assert 0 <= metrics["drift/experts_differ_frac"] < 0.01
        pairs, tokens = (
            metrics["drift/experts_differ_frac"],
            metrics["drift/experts_differ_token_frac"],
        )
        assert pairs <= tokens <= policy.num_routers * pairs
        assert metrics["drift/abs_mean"] < 1e-4
