"""Where the thinking of a completion ends, in tokens, whoever decodes it.

Mutations tried, each seen red: the last of several tags; no count by `decoded`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny import build_checkpoint, problem, sharp_policy
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.records import Completion
from vlm_rl.rollout import Sampling, TransformersEngine
from vlm_rl.rollout.engine import decoded, thinking_tokens
from vlm_rl.rollout.vllm.protocol import Answer, RawCompletion, Vocabulary

TAG = "</think>"
TEXTS = [
    "It is 5.</think> So 5.",
    "</think>",
    "</think>5",
    "ünïcödé 日本語 first</think>日本語 then",
    "one</think> two</think> three",
    "never ends",
    "</thin k>",
    "",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("thinking"))


@pytest.fixture(scope="module", params=["several tokens", "one token"])
def tokenizer(request: pytest.FixtureRequest, folder: Path) -> Any:
    """Qwen2.5 writes the tag with several tokens, Qwen3 with one that is not special."""
    tokenizer = PromptEncoder(str(folder)).tokenizer
    if request.param == "one token":
        tokenizer.add_tokens([TAG])
    assert (len(tokenizer.encode(TAG)) == 1) == (request.param == "one token")
    return tokenizer


@pytest.mark.parametrize("text", TEXTS)
def test_it_is_the_shortest_prefix_that_has_the_tag(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text)
    found = thinking_tokens(ids, text, tokenizer)
    wanted = [n for n in range(len(ids) + 1) if TAG in tokenizer.decode(ids[:n])]
    assert found == (wanted[0] if wanted else None)
    if found is not None:
        assert tokenizer.decode(ids[:found]).startswith(text.partition(TAG)[0] + TAG)


@pytest.mark.parametrize("opening", ["", "<think>"])
def test_opening_of_the_prompt_has_no_tokens_of_the_completion(
    folder: Path, tokenizer: Any, opening: str
) -> None:
    prompt = replace(PromptEncoder(str(folder)).encode(problem("Why?")), opening=opening)
    ids = tokenizer.encode("Because.</think> 5") + tokenizer.encode("<|im_end|>")
    completion = decoded(
        prompt, tokenizer, token_ids=ids, logprobs=[-1.0] * len(ids), finish_reason="stop"
    )
    assert completion.text == f"{opening}Because.</think> 5"
    assert completion.thinking_tokens == len(tokenizer.encode("Because.</think>"))
    # as a checkpoint of the overlapped schedule keeps it
    assert Completion(**vars(completion)).thinking_tokens == completion.thinking_tokens


def test_answer_of_vllm_has_it(folder: Path, tokenizer: Any) -> None:
    ids = tokenizer.encode("Because.</think> 5") + tokenizer.encode("<|im_end|>")
    vocabulary = Vocabulary(tokenizer, frozenset(ids[-1:]), frozenset(), len(tokenizer))
    prompt = PromptEncoder(str(folder)).encode(problem("Why?"))
    (request,) = vocabulary.requests(
        [prompt], group_size=1, sampling=Sampling(max_completion_tokens=99), seed=0
    )
    raw = RawCompletion(ids, [-1.0] * len(ids), "stop")
    (completion,) = vocabulary.group(request, Answer(prompt.token_ids.tolist(), [raw]), 1)
    assert completion.thinking_tokens == len(tokenizer.encode("Because.</think>"))


def test_sampled_completions_say_it(folder: Path) -> None:
    """A tag of one token that the policy samples often: the text and the count agree."""
    encoder, engine = PromptEncoder(str(folder)), TransformersEngine()
    sampling = Sampling(max_completion_tokens=6)
    engine.start(sharp_policy(folder), encoder, sampling)
    (group,) = engine.generate(
        [encoder.encode(problem("Why?"))], group_size=4, sampling=sampling, seed=1
    )
    assert all((c.thinking_tokens is None) == (TAG not in c.text) for c in group)
    assert all(isinstance(c.token_ids, torch.Tensor) for c in group)
