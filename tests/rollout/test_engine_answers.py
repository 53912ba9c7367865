"""What is asked of a rollout engine and checked in its answers, without an engine.

Broken on purpose, one at a time, each seen red:
    the engine's prompt not compared, or only its length -> another prompt
    seeds that count on from prompt to prompt, or of 64 bits -> seeds
    a cut completion, a placeholder or a NaN let through -> broken completion
    fewer completions than asked for let through -> missing; greedy ones not repeated -> greedy
    penalties and filters looked for only below their neutral values -> refused by name
    fields that the run agrees with listed too -> sampler of the checkpoint
    a watchdog that is never touched, never fires or never closes -> watchdog
"""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny import build_checkpoint, problem
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.rollout import Sampling, TransformersEngine, VLLMEngine, unused_sampler
from vlm_rl.rollout.faults import EngineFault, EngineMismatch
from vlm_rl.rollout.vllm.protocol import Answer, RawCompletion, Request, Vocabulary

STOP, PLACEHOLDER = 7, 9


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> PromptEncoder:
    return PromptEncoder(str(build_checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("policy"))))


@pytest.fixture(scope="module")
def vocabulary(encoder: PromptEncoder) -> Vocabulary:
    return Vocabulary(encoder.tokenizer, frozenset({STOP}), frozenset({PLACEHOLDER}))


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
    """vLLM gives the completions of a group the seeds that follow the request's."""
    prompt = encoder.encode(problem("Count."))
    sampling = Sampling(1.0, 4)
    asked = vocabulary.requests([prompt] * 64, group_size=16, sampling=sampling, seed=1)
    used = {request.parameters["seed"] + i for request in asked for i in range(16)}
    assert len(used) == 64 * 16
    assert max(used) < 2**63


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_p", 0.9),
        ("top_k", 20),
        ("min_p", 0.1),
        ("repetition_penalty", 1.05),
        ("presence_penalty", 0.5),
        ("frequency_penalty", 0.5),
    ],
)
def test_sampler_that_the_policy_can_not_describe_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"sampling\.{name}={value}: .*allow_undescribed"):
        Sampling(**{name: value})
    allowed = Sampling(**{name: value}, allow_undescribed=(name,))
    assert allowed.undescribed == [name]
    with pytest.raises(ValueError, match=f"TransformersEngine .*{name}.*VLLMEngine"):
        TransformersEngine().check(allowed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"top_p": 0.0}, "top_p=0.0 is out of its range"),
        ({"top_k": -1}, "top_k=-1 is out"),
        ({"min_p": 1.0}, "min_p=1.0 is out"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 is out"),
        ({"allow_undescribed": ("topk",)}, "'topk' is none of top_p, top_k"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Sampling(**change)


def test_engine_arguments_are_checked_by_name() -> None:
    for change, words in (
        ({"max_concurrent": 0}, "max_concurrent must be >= 1, got 0"),
        ({"gpu_memory_utilization": 1.5}, r"gpu_memory_utilization must be in \(0, 1\)"),
        ({"silence_timeout_s": 0.0}, "silence_timeout_s must be > 0"),
        ({"max_restarts": -1}, "max_restarts must be >= 0"),
    ):
        with pytest.raises(ValueError, match=f"VLLMEngine.{words}"):
            VLLMEngine(**change)  # type: ignore[arg-type]


def test_sampler_of_the_checkpoint_is_named_and_not_used(tmp_path: Path) -> None:
    assert unused_sampler(str(tmp_path), Sampling()) is None
    (tmp_path / "generation_config.json").write_text(
        '{"repetition_penalty": 1.05, "top_k": 1, "temperature": 1.0, "eos_token_id": 3}'
    )
    line = unused_sampler(str(tmp_path), Sampling())
    assert line is not None
    assert "not used (top_k=1, repetition_penalty=1.05)" in line
    assert "top_k=0" in line


WAITS = """
import time
from vlm_rl.rollout.watchdog import Watchdog
with Watchdog(0.5, "the engine") as dog:
    for _ in range(4):
        time.sleep(0.2)
        dog.touch()
    print("alive", flush=True)
    time.sleep({seconds})
time.sleep(1)  # closed, it no longer counts
print("over", flush=True)
"""


def test_watchdog_ends_a_process_that_is_silent_and_no_other() -> None:
    def run(seconds: float) -> subprocess.CompletedProcess[str]:
        program = WAITS.format(seconds=seconds)
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    fine, hung = run(0.1), run(20)
    assert fine.returncode == 0
    assert fine.stdout.split() == ["alive", "over"]
    assert hung.returncode == 75
    assert hung.stdout.split() == ["alive"]
    assert "the engine has been silent for 0.5 s" in hung.stderr
    assert "goes on from the last checkpoint" in hung.stderr
    assert "time.sleep" in hung.stderr or 'File "<string>"' in hung.stderr  # where it hung
