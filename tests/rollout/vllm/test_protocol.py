"""What is asked of vLLM and checked in its answers, without vLLM.

Broken on purpose, one at a time, each seen red:
    the engine's prompt not compared, or only its length -> another prompt
    seeds that count up from prompt to prompt, or of 64 bits -> seeds
    a cut completion, a placeholder or a NaN let through -> broken completion
    fewer completions than asked for let through -> missing; greedy ones not repeated -> greedy
"""

import dataclasses
import math
from typing import Any

import pytest

from tests.support.tiny import build_checkpoint, problem
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.rollout import Sampling
from vlm_rl.rollout.faults import EngineFault, EngineMismatch
from vlm_rl.rollout.vllm.protocol import Answer, RawCompletion, Request, Vocabulary

STOP, PLACEHOLDER = 7, 9


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> PromptEncoder:
    return PromptEncoder(str(build_checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("policy"))))


@pytest.fixture(scope="module")
def vocabulary(encoder: PromptEncoder) -> Vocabulary:
    return Vocabulary(encoder.tokenizer, frozenset({STOP}), frozenset({PLACEHOLDER}), 300)


def request_of(vocabulary: Vocabulary, encoder: PromptEncoder, **changes: Any) -> Request:
    prompt = encoder.encode(problem("Count: <image>", (32, 64)))
    (request,) = vocabulary.requests(
        [prompt], group_size=2, sampling=Sampling(1.0, 4, **changes), seed=5
    )
    return request


GOOD = [
    RawCompletion([3, 4, STOP], [-1.0, -2.0, -0.5], "stop"),
    RawCompletion([3, 4, 5, 6], [-1.0, -2.0, -0.5, 0.0], "length"),
]


def test_good_answer_becomes_completions(encoder: PromptEncoder, vocabulary: Vocabulary) -> None:
    request = request_of(vocabulary, encoder)
    group = vocabulary.group(request, Answer(request.prompt.token_ids.tolist(), GOOD), 2)
    assert [c.token_ids.tolist() for c in group] == [[3, 4, STOP], [3, 4, 5, 6]]
    assert [c.sampling_logprobs.tolist() for c in group] == [[-1, -2, -0.5], [-1, -2, -0.5, 0]]
    assert [c.truncated for c in group] == [False, True]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"finish_reason": "abort"}, "unknown finish reason 'abort'"),
        ({"finish_reason": None}, "unknown finish reason None"),
        ({"token_ids": [], "logprobs": []}, "an empty completion"),
        ({"finish_reason": "length"}, "cut after 3 of 4 tokens"),
        ({"token_ids": [3, 4, 5]}, "stopped without a stop token, at 5"),
        ({"logprobs": [-1.0, -2.0]}, "log-probabilities are missing"),
        ({"logprobs": [-1.0, math.nan, -2.0]}, "not finite"),
        ({"token_ids": [3, PLACEHOLDER, STOP]}, "a vision placeholder was sampled"),
        ({"token_ids": [3, 300, STOP]}, "token 300 is outside the vocabulary of 300"),
        ({"token_ids": [3, -1, STOP]}, "token -1 is outside the vocabulary"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_broken_completion_is_a_fault_with_the_uid(
    encoder: PromptEncoder, vocabulary: Vocabulary, change: dict[str, Any], words: str
) -> None:
    request = request_of(vocabulary, encoder)
    broken = [dataclasses.replace(GOOD[0], **change), GOOD[1]]
    with pytest.raises(EngineFault, match=f"problem p-7: .*{words}"):
        vocabulary.group(request, Answer(request.prompt.token_ids.tolist(), broken), 2)


def test_missing_completions_are_a_fault(encoder: PromptEncoder, vocabulary: Vocabulary) -> None:
    request = request_of(vocabulary, encoder)
    with pytest.raises(EngineFault, match="problem p-7: 1 of 2 completions came back"):
        vocabulary.group(request, Answer(request.prompt.token_ids.tolist(), GOOD[:1]), 2)


@pytest.mark.parametrize("cut", ["last", "first", "placeholder", "none, but another id"])
def test_another_prompt_is_a_mismatch_with_the_uid(
    encoder: PromptEncoder, vocabulary: Vocabulary, cut: str
) -> None:
    request = request_of(vocabulary, encoder)
    seen = request.prompt.token_ids.tolist()
    place = {"last": len(seen) - 1, "first": 0, "placeholder": seen.index(encoder.image_token_id)}
    if cut in place:
        del seen[place[cut]]
    else:
        seen[0] += 1
    with pytest.raises(EngineMismatch, match=r"problem p-7: .*64x32.*min_pixels, max_pixels"):
        vocabulary.group(request, Answer(seen, GOOD), 2)


def test_greedy_completion_is_asked_for_once_and_fills_the_group(
    encoder: PromptEncoder, vocabulary: Vocabulary
) -> None:
    prompt = encoder.encode(problem("Count."))
    (request,) = vocabulary.requests([prompt], group_size=3, sampling=Sampling(0.0, 4), seed=5)
    assert request.parameters["n"] == 1
    group = vocabulary.group(request, Answer(prompt.token_ids.tolist(), GOOD[:1]), 3)
    assert [c.token_ids.tolist() for c in group] == [[3, 4, STOP]] * 3


def test_every_sampling_parameter_is_explicit(
    encoder: PromptEncoder, vocabulary: Vocabulary
) -> None:
    assert request_of(vocabulary, encoder).parameters | {"seed": 0} == {
        "n": 2,
        "temperature": 1.0,
        "max_tokens": 4,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logit_bias": {"9": -100.0},
        "stop_token_ids": [7],
        "ignore_eos": True,
        "logprobs": 0,
        "detokenize": False,
        "seed": 0,
    }


def test_seeds_differ_by_prompt_and_never_meet_within_groups(
    encoder: PromptEncoder, vocabulary: Vocabulary
) -> None:
    """Seeds count up from the request's within a group of vLLM."""
    prompt = encoder.encode(problem("Count."))
    sampling = Sampling(1.0, 4)
    asked = vocabulary.requests([prompt] * 64, group_size=16, sampling=sampling, seed=1)
    used = {request.parameters["seed"] + i for request in asked for i in range(16)}
    assert len(used) == 64 * 16
    assert max(used) < 2**63
