"""vLLM in the trainer's process, against the policy's own float32 forward.

Skipped if vLLM is not installed. Broken on purpose, one at a time, each seen red:
    log-probabilities before the temperature, expanded ids, the encoder cache kept, placeholders not
        banned, weights of earlier chunks forgotten -> the checks at the start, so every test
    the policy's weights not restored by the checks, random states not restored -> start
    an update that sends nothing -> update; seed ignored -> seed; no stop tokens -> first stop token
    the whole softmax whatever is asked -> sampler that is allowed
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.parameters import also_long
from tests.support.tiny import picture, png
from tests.support.vllm_setup import MISSING, ROUNDING, SAMPLING, Setup, in_process, tokens_of
from vlm_rl.records import Problem
from vlm_rl.rollout import Sampling, TransformersEngine
from vlm_rl.rollout.stop_tokens import OF_CHATS

pytest.importorskip("vllm", reason=MISSING)

FAMILIES = ("qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module", params=[FAMILIES[0], *map(also_long, FAMILIES[1:])])
def setup(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Setup]:
    built = Setup.build(request.param, tmp_path_factory.mktemp("checkpoint"), in_process())
    before, weights = random_states(), copied(built.policy.state_dict())
    built.start()
    assert random_states() == before
    now = built.policy.state_dict()
    assert all(torch.equal(now[name], weight) for name, weight in weights.items())
    yield built
    built.engine.close()


def random_states() -> list[Any]:
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


def copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in weights.items()}


@pytest.fixture
def weights_restored(setup: Setup) -> Iterator[None]:
    """For tests that change weights."""
    kept = copied(setup.policy.state_dict())
    yield
    setup.policy.load_state_dict(kept)
    setup.engine.update_weights(setup.policy)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampling_logprobs_are_the_policys(setup: Setup, temperature: float) -> None:
    groups = setup.generate(Sampling(temperature, 24))
    gaps = setup.gaps(groups, temperature)
    assert len(gaps) > 200
    assert gaps.max() < ROUNDING


def test_mixed_precision_of_the_trainer_does_not_reach_the_engine(setup: Setup) -> None:
    """Lightning's bf16-mixed is an autocast around whole training steps."""
    with torch.autocast("cpu", torch.bfloat16):
        setup.engine.update_weights(setup.policy)
        groups = setup.generate()
    assert setup.gaps(groups).max() < ROUNDING


def test_greedy_tokens_and_logprobs_are_those_of_the_transformers_engine(setup: Setup) -> None:
    other = TransformersEngine()
    other.start(setup.policy, setup.encoder, SAMPLING)
    greedy = Sampling(0.0, 24)
    for ours, theirs in zip(
        setup.generate(greedy),
        other.generate(setup.prompts, group_size=1, sampling=greedy, seed=0),
        strict=True,
    ):
        assert torch.equal(ours[0].token_ids, theirs[0].token_ids)
        assert ours[0].text == theirs[0].text
        torch.testing.assert_close(
            ours[0].sampling_logprobs, theirs[0].sampling_logprobs, atol=ROUNDING, rtol=0
        )


def test_seed_decides_the_completions(setup: Setup) -> None:
    first, again, other = setup.generate(), setup.generate(), setup.generate(seed=1)
    assert tokens_of(first) == tokens_of(again)
    assert tokens_of(first) != tokens_of(other)
    assert len({tuple(ids) for ids in tokens_of(first)}) == 4 * len(setup.prompts)


def test_first_stop_token_ends_a_completion_and_is_part_of_it(setup: Setup) -> None:
    stops = torch.tensor(setup.encoder.tokenizer.convert_tokens_to_ids(list(OF_CHATS)))
    completions = [c for seed in range(4) for group in setup.generate(seed=seed) for c in group]
    for completion in completions:
        stopped = torch.isin(completion.token_ids, stops)
        assert not stopped[:-1].any()
        assert stopped[-1] == (not completion.truncated)
    assert not all(completion.truncated for completion in completions)


def test_generate_leaves_random_states_alone(setup: Setup) -> None:
    before = random_states()
    setup.generate()
    assert random_states() == before


@pytest.mark.usefixtures("weights_restored")
@pytest.mark.parametrize("part", ["vision_tower", "language_model"])
def test_update_brings_the_new_weights_and_leaves_no_old_ones(setup: Setup, part: Any) -> None:
    """Of the vision tower alone too: prompts and images come again, so that caches would show."""
    assert setup.gaps(setup.generate()).max() < ROUNDING
    setup.scale(part)
    assert setup.gaps(setup.generate()).max() > 0.05  # the engine still has the old weights
    setup.engine.update_weights(setup.policy)
    assert setup.gaps(setup.generate()).max() < ROUNDING


@pytest.mark.usefixtures("weights_restored")
def test_update_in_chunks_of_one_weight_each(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.scale("vision_tower")
    setup.scale("language_model")
    monkeypatch.setattr(setup.engine._sender, "_chunk_bytes", 1)
    setup.engine.update_weights(setup.policy)
    assert setup.gaps(setup.generate()).max() < ROUNDING


def test_prompts_are_what_the_trainer_sees(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = setup.engine._ask
    answers: list[Any] = []
    monkeypatch.setattr(
        setup.engine, "_ask", lambda requests: answers.extend(asked(requests)) or answers
    )
    setup.generate()
    for prompt, answer in zip(setup.prompts, answers, strict=True):
        assert list(answer.prompt_ids) == prompt.token_ids.tolist()


def test_no_placeholder_is_sampled_if_the_policy_wants_nothing_else(setup: Setup) -> None:
    """A head that prefers the placeholders by far."""
    head = setup.policy.model.lm_head.weight
    kept = head.detach().clone()
    try:
        with torch.no_grad():
            favourite = setup.policy.banned_ids
            head[favourite] = head.abs().mean() * 4 * head[favourite].sign()
        setup.engine.update_weights(setup.policy)
        groups = setup.generate()
        sampled = torch.cat([c.token_ids for group in groups for c in group])
        assert not torch.isin(sampled, setup.policy.banned_ids).any()
        assert setup.gaps(groups).max() < ROUNDING
    finally:
        with torch.no_grad():
            head.copy_(kept)
        setup.engine.update_weights(setup.policy)


def test_too_many_images_are_refused_by_name(setup: Setup) -> None:
    images = tuple(png(picture(32, 32, seed=i)) for i in range(9))
    prompt = setup.encoder.encode(Problem("album", "Which?", "1", images=images))
    with pytest.raises(ValueError, match=r"problem album has 9 images.*max_images=8"):
        setup.engine.generate([prompt], group_size=2, sampling=SAMPLING, seed=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_p", 0.5),
        ("top_k", 3),
        ("min_p", 0.3),
        ("repetition_penalty", 2.0),
        ("presence_penalty", 2.0),
        ("frequency_penalty", 2.0),
    ],
)
def test_sampler_that_is_allowed_is_used_and_its_drift_is_seen(
    setup: Setup, name: str, value: Any
) -> None:
    plain = setup.generate()
    changed = setup.generate(Sampling(1.0, 24, **{name: value}, allow_undescribed=(name,)))
    assert tokens_of(changed) != tokens_of(plain)
    assert setup.gaps(changed).mean() > 1e-3


@pytest.mark.long
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs a core for each of two workers")
def test_two_tensor_parallel_workers_sample_from_the_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights reach the workers, which are processes of their own, through the process group."""
    monkeypatch.setenv("VLLM_CPU_SIM_MULTI_NUMA", "1")  # one memory node for both
    engine = in_process(tensor_parallel_size=2, kv_cache_gib=1 / 4)
    setup = Setup.build("qwen2_5_vl", tmp_path, engine).start()
    try:
        assert setup.gaps(setup.generate()).max() < ROUNDING
        setup.scale("vision_tower")
        setup.engine.update_weights(setup.policy)
        assert setup.gaps(setup.generate()).max() < ROUNDING
    finally:
        engine.close()
