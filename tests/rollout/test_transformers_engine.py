"""The transformers engine samples exactly what the policy's log-probabilities describe.

Broken on purpose, one at a time, each seen red:
completions starting one position too far; placeholders not banned; sampling at a temperature other
than the recorded one, recording at 1 always; only one stop token; going on after a stop token;
always `stop`; a prefill per completion; seed ignored, global generator; batches in reverse;
positions of the wrong rows after rows have left; specials in the text; greedy as sampling; NaN as a
temperature; the mode not restored.
"""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.support.oracles import plain_logits
from tests.support.tiny import FAMILIES, completion_of, problem, prompts_of, sharp_policy
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.records import Completion, Groups, Prompt, Rows
from vlm_rl.rollout import Sampling, TransformersEngine
from vlm_rl.rollout.decoding import COMPACT_BELOW

every_family = pytest.mark.parametrize("family", FAMILIES)


class Setup:
    """A policy with its encoder, engine and a batch of prompts with one, two and no images."""

    def __init__(self, folder: Path) -> None:
        self.policy = sharp_policy(folder)
        self.encoder = PromptEncoder(str(folder))
        self.prompts = prompts_of(self.encoder, "mixed")
        self.stop_ids = self.encoder.tokenizer.convert_tokens_to_ids(
            ["<|im_end|>", "<|endoftext|>"]
        )
        with torch.no_grad():  # more extreme logits: they are sampled often
            self.policy.model.model.language_model.embed_tokens.weight[self.stop_ids] *= 3

    def engine(self, **options: int) -> TransformersEngine:
        engine = TransformersEngine(**options)
        engine.start(self.policy, self.encoder, Sampling())
        return engine


@pytest.fixture(scope="module")
def setups(checkpoints: dict[str, Path]) -> dict[str, Setup]:
    """Read only."""
    return {family: Setup(folder) for family, folder in checkpoints.items()}


@pytest.fixture(scope="module")
def any_setup(setups: dict[str, Setup]) -> Setup:
    return setups["qwen2_5_vl"]


def rows_of(prompts: Sequence[Prompt], groups: Groups) -> Rows:
    return Rows.build(prompts, groups, torch.ones(len(groups), len(groups[0])) > 0)


def ids_of(groups: Groups) -> list[list[list[int]]]:
    return [[completion.token_ids.tolist() for completion in group] for group in groups]


def flat(groups: Groups) -> list[Completion]:
    return [completion for group in groups for completion in group]


def assert_same_logprobs(policy: Policy, rows: Rows, temperature: float) -> None:
    with torch.no_grad():
        described = policy.logprobs(rows, temperature=temperature).logprobs
    # float32 sums in two orders, and their difference divided by the temperature
    torch.testing.assert_close(rows.sampling_logprobs, described, rtol=1e-6, atol=2e-5)


@pytest.mark.covers("engine")
@every_family
@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_sampling_logprobs_equal_those_of_the_policy(
    family: str, temperature: float, setups: dict[str, Setup]
) -> None:
    setup = setups[family]
    sampling = Sampling(temperature=temperature, max_completion_tokens=40)
    groups = setup.engine().generate(setup.prompts, group_size=8, sampling=sampling, seed=1)
    if temperature:  # rows end at different steps, and the batch is made smaller on the way
        ended = [len(c) for c in flat(groups) if len(c) < sampling.max_completion_tokens]
        assert len(ended) > (1 - COMPACT_BELOW) * len(flat(groups))
        assert len(set(ended)) > 3
    rows = rows_of(setup.prompts, groups)
    assert_same_logprobs(setup.policy, rows, sampling.softmax_temperature)


@every_family
def test_seed_decides_the_completions(family: str, setups: dict[str, Setup]) -> None:
    setup = setups[family]
    state = torch.get_rng_state()
    first, again, other = (
        setup.engine().generate(
            setup.prompts, group_size=3, sampling=Sampling(max_completion_tokens=12), seed=seed
        )
        for seed in (1, 1, 2)
    )
    assert ids_of(first) == ids_of(again)
    for one, two in zip(flat(first), flat(again), strict=True):
        assert torch.equal(one.sampling_logprobs, two.sampling_logprobs)
    assert ids_of(first) != ids_of(other)
    assert len({tuple(completion.token_ids.tolist()) for completion in first[0]}) == 3
    assert torch.equal(torch.get_rng_state(), state)


@every_family
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_frequencies_of_first_tokens_match_the_softmax(
    family: str, temperature: float, setups: dict[str, Setup]
) -> None:
    setup = setups[family]
    draws = 4096
    sampling = Sampling(temperature=temperature, max_completion_tokens=1)
    prompts = setup.prompts[:1]
    groups = setup.engine(max_rows=draws).generate(
        prompts, group_size=draws, sampling=sampling, seed=5
    )
    counts = torch.bincount(
        torch.cat([completion.token_ids for completion in groups[0]]),
        minlength=setup.policy.model.config.get_text_config().vocab_size,
    )
    with torch.no_grad():
        logits = plain_logits(setup.policy.model, rows_of(prompts, [[completion_of([0])]]))[0, 0]
    logits[setup.policy.banned_ids] = -math.inf
    expected = draws * torch.softmax(logits / temperature, -1)
    common = expected >= 5
    expected = torch.cat([expected[common], expected[~common].sum()[None]])
    counts = torch.cat([counts[common], counts[~common].sum()[None]])
    assert len(expected) > 10
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    freedom = len(expected) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)


@every_family
@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_placeholders_are_never_sampled_however_likely(
    family: str, temperature: float, checkpoints: dict[str, Path]
) -> None:
    setup = Setup(checkpoints[family])
    image, video, *_ = setup.policy.banned_ids.tolist()
    embeddings = setup.policy.model.model.language_model.embed_tokens.weight
    with torch.no_grad():  # opposite rows: whatever the hidden state, one of them is far ahead
        embeddings[image] = 200 * torch.randn_like(embeddings[image])
        embeddings[video] = -embeddings[image]
    sampling = Sampling(temperature=temperature, max_completion_tokens=12)
    groups = setup.engine().generate(setup.prompts, group_size=8, sampling=sampling, seed=3)
    rows = rows_of(setup.prompts, groups)
    with torch.no_grad():
        likeliest = plain_logits(setup.policy.model, rows).argmax(-1)[rows.completion_mask]
    assert torch.isin(likeliest, torch.tensor([image, video])).float().mean() > 0.9
    sampled = rows.completion_ids[rows.completion_mask]
    assert not torch.isin(sampled, setup.policy.banned_ids).any()
    assert_same_logprobs(setup.policy, rows, 1.0)


def test_sampler_of_the_checkpoint_has_no_effect(
    any_setup: Setup, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(checkpoints["qwen2_5_vl"], folder)
    inherited = {"repetition_penalty": 1.3, "top_k": 5, "temperature": 0.1, "do_sample": True}
    inherited |= {"max_new_tokens": 3}
    (folder / "generation_config.json").write_text(json.dumps(inherited))
    setup = Setup(folder)
    assert setup.policy.model.generation_config.top_k == 5
    ours, theirs = (
        s.engine().generate(
            s.prompts, group_size=4, sampling=Sampling(max_completion_tokens=20), seed=1
        )
        for s in (setup, any_setup)
    )
    assert ids_of(ours) == ids_of(theirs)


@every_family
@pytest.mark.parametrize("limit", [7, 30])
def test_completions_end_at_a_stop_token_or_at_the_limit(
    family: str, limit: int, setups: dict[str, Setup]
) -> None:
    setup = setups[family]
    sampling = Sampling(max_completion_tokens=limit)
    groups = setup.engine().generate(setup.prompts, group_size=16, sampling=sampling, seed=2)
    reasons = set()
    for completion in flat(groups):
        ids = completion.token_ids.tolist()
        stops = [index for index, token in enumerate(ids) if token in setup.stop_ids]
        if completion.finish_reason == "stop":
            assert stops == [len(ids) - 1]
            assert len(ids) <= limit
        else:
            assert not stops
            assert len(ids) == limit
        assert completion.truncated == (not stops)
        reasons.add(completion.finish_reason)
    assert reasons == {"stop", "length"} or limit < 30


def test_text_is_that_of_the_tokens_without_specials(any_setup: Setup) -> None:
    sampling = Sampling(max_completion_tokens=60)
    groups = any_setup.engine().generate(
        any_setup.prompts, group_size=16, sampling=sampling, seed=2
    )
    tokenizer = any_setup.encoder.tokenizer
    special = set(tokenizer.all_special_ids)
    inside = 0
    for completion in flat(groups):
        ids = completion.token_ids.tolist()
        inside += sum(token in special for token in ids[:-1])
        assert completion.text == tokenizer.decode([i for i in ids if i not in special])
        assert "<|" not in completion.text
    assert inside  # a special token that is no stop token was sampled, and is not shown either


@every_family
def test_groups_keep_the_order_of_their_prompts_in_any_batching(
    family: str, setups: dict[str, Setup]
) -> None:
    setup = setups[family]
    greedy = Sampling(temperature=0, max_completion_tokens=10)
    whole = setup.engine().generate(setup.prompts, group_size=2, sampling=greedy, seed=1)
    assert len({tuple(group[0].token_ids.tolist()) for group in whole}) == len(setup.prompts)
    for max_rows in (1, 5):
        engine = setup.engine(max_rows=max_rows)
        parts = engine.generate(setup.prompts, group_size=2, sampling=greedy, seed=1)
        assert ids_of(parts) == ids_of(whole)
        sampled = engine.generate(
            setup.prompts, group_size=3, sampling=Sampling(max_completion_tokens=6), seed=1
        )
        assert [len(group) for group in sampled] == [3] * len(setup.prompts)
        assert_same_logprobs(setup.policy, rows_of(setup.prompts, sampled), 1.0)


@every_family
@pytest.mark.parametrize(("max_rows", "batches"), [(64, 1), (4, 3)])
def test_each_prompt_is_encoded_once(
    family: str, max_rows: int, batches: int, setups: dict[str, Setup]
) -> None:
    setup = setups[family]
    with_images = [prompt for prompt in setup.prompts if prompt.images]
    prompts = [*with_images, setup.encoder.encode(problem("<image>?", (64, 64)))]
    patches: list[int] = []
    widths: list[int] = []
    tower = setup.policy.part("vision_tower").register_forward_pre_hook(
        lambda _, args, kwargs: patches.append(len(args[0] if args else kwargs["hidden_states"])),
        with_kwargs=True,
    )
    text = setup.policy.part("language_model").register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(tuple(kwargs["inputs_embeds"].shape[:2])),
        with_kwargs=True,
    )
    with tower, text:
        setup.engine(max_rows=max_rows).generate(
            prompts, group_size=4, sampling=Sampling(max_completion_tokens=3), seed=1
        )
    expected = [len(prompt.pixel_values) for prompt in prompts if prompt.pixel_values is not None]
    assert sum(patches) == sum(expected)
    assert len(patches) == batches
    prefills = [rows for rows, width in widths if width > 1]
    assert sum(prefills) == len(prompts)


@every_family
def test_greedy_takes_the_likeliest_token(family: str, setups: dict[str, Setup]) -> None:
    setup = setups[family]
    greedy = Sampling(temperature=0, max_completion_tokens=20)
    groups = setup.engine().generate(setup.prompts, group_size=2, sampling=greedy, seed=1)
    rows = rows_of(setup.prompts, groups)
    with torch.no_grad():
        logits = plain_logits(setup.policy.model, rows)
    logits[..., setup.policy.banned_ids] = -math.inf
    mask = rows.completion_mask
    assert torch.equal(logits.argmax(-1)[mask], rows.completion_ids[mask])


def test_generating_follows_the_live_weights_and_leaves_the_mode_alone(
    checkpoints: dict[str, Path],
) -> None:
    setup = Setup(checkpoints["qwen2_5_vl"])
    engine = setup.engine()
    sampling = Sampling(max_completion_tokens=8)
    assert setup.policy.training
    before = engine.generate(setup.prompts, group_size=4, sampling=sampling, seed=1)
    assert setup.policy.training
    with torch.no_grad():
        for parameter in setup.policy.parameters():
            parameter.mul_(1.05)
    engine.update_weights(setup.policy)
    after = engine.generate(setup.prompts, group_size=4, sampling=sampling, seed=1)
    assert ids_of(before) != ids_of(after)
    assert_same_logprobs(setup.policy, rows_of(setup.prompts, after), 1.0)
    assert all(parameter.grad is None for parameter in setup.policy.parameters())


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_impossible_temperature_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"temperature must be finite and >= 0, got {value}"):
        Sampling(temperature=value)


@pytest.mark.parametrize("value", [0, -3])
def test_impossible_sizes_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match=f"max_completion_tokens must be >= 1, got {value}"):
        Sampling(max_completion_tokens=value)
    with pytest.raises(ValueError, match=f"max_rows must be >= 1, got {value}"):
        TransformersEngine(max_rows=value)
