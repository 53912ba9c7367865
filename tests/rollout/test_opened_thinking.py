"""A chat template that opens the thinking: what it opens is part of the text that is judged.

Broken on purpose, one at a time, each seen red: a line break after the tag not stripped; the
opening read after the user's texts are filled in; a thinking that the template also closes taken
for open; the text without the opening; the opening among the tokens.
"""

from pathlib import Path

import pytest
import torch

from tests.support.tiny import build_checkpoint, problem, sharp_policy
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.evaluation.responders import PolicyResponder
from vlm_rl.records import THINK, Completion, Rows
from vlm_rl.rewards import Format
from vlm_rl.rollout import Sampling, TransformersEngine
from vlm_rl.rollout.contract import AllowedTokens
from vlm_rl.rollout.stop_tokens import OF_CHATS
from vlm_rl.rollout.vllm.protocol import Answer, RawCompletion, Vocabulary
from vlm_rl.verification.extraction import answers

ASKED = problem("Count: <image>", (32, 64))
HEADER = "<|im_start|>assistant\n"


def with_header(folder: Path, header: str) -> Path:
    """Replace what the chat template of a checkpoint puts before a completion."""
    path = folder / "chat_template.jinja"
    template = path.read_text()
    assert template.count(HEADER) == 1
    path.write_text(template.replace(HEADER, header))
    return folder


def encoder_with(folder: Path, header: str) -> PromptEncoder:
    return PromptEncoder(str(with_header(build_checkpoint("qwen2_5_vl", folder), header)))


@pytest.fixture(scope="module")
def opening(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint whose chat template opens the thinking; only read it."""
    folder = build_checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("opening"))
    return with_header(folder, f"{HEADER}<think>\n")


@pytest.fixture(scope="module")
def encoder(opening: Path) -> PromptEncoder:
    return PromptEncoder(str(opening))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"{HEADER}<think>", THINK),
        (f"{HEADER}<think>\n\n", THINK),
        (HEADER, ""),
        (f"{HEADER}<think>\n\n</think>\n\n", ""),
    ],
)
def test_opening_is_what_the_template_leaves_open(
    header: str, expected: str, tmp_path: Path
) -> None:
    encoder = encoder_with(tmp_path, header)
    prompt = encoder.encode(ASKED)
    assert prompt.opening == expected
    assert encoder.tokenizer.decode(prompt.token_ids).endswith(header)
    assert encoder.count_tokens(ASKED) == len(prompt)


def test_user_cannot_open_the_thinking(tmp_path: Path) -> None:
    folder = build_checkpoint("qwen2_5_vl", tmp_path)
    (folder / "chat_template.jinja").write_text(
        "{% for part in messages[-1]['content'] %}"
        "{{ part['text'] if 'text' in part else '<|image_pad|>' }}{% endfor %}"
    )
    encoder = PromptEncoder(str(folder))
    prompt = encoder.encode(problem("Why <think>"))
    assert encoder.tokenizer.decode(prompt.token_ids).endswith("<think>")
    assert prompt.opening == ""


def test_sampled_text_starts_with_the_opening_and_its_tokens_do_not(opening: Path) -> None:
    policy, encoder = sharp_policy(opening), PromptEncoder(str(opening))
    engine, sampling = TransformersEngine(), Sampling(max_completion_tokens=8)
    engine.start(policy, encoder, sampling)
    prompts = [encoder.encode(ASKED), encoder.encode(problem("What is 17 + 4?"))]
    groups = engine.generate(prompts, group_size=3, sampling=sampling, seed=1)
    for completion in (completion for group in groups for completion in group):
        sampled = encoder.tokenizer.decode(completion.token_ids, skip_special_tokens=True)
        assert completion.text == "<think>" + sampled
        assert not sampled.startswith("<think>")
    rows = Rows.build(prompts, groups, torch.ones(2, 3) > 0)
    with torch.no_grad():
        described = policy.logprobs(rows, temperature=1.0).logprobs
    torch.testing.assert_close(rows.sampling_logprobs, described, rtol=1e-6, atol=1e-5)
    responder = PolicyResponder(engine, AllowedTokens.of(policy), encoder, sampling)
    ((response,),) = responder.respond([ASKED], samples=1, seed=1)
    assert response.text.startswith("<think>")


def written(encoder: PromptEncoder, text: str) -> Completion:
    """Return the completion that vLLM's answer `text` becomes."""
    ids = encoder.tokenizer.encode(text + OF_CHATS[0])
    stop_ids = encoder.tokenizer.convert_tokens_to_ids(list(OF_CHATS))
    vocabulary = Vocabulary(
        encoder.tokenizer, frozenset(stop_ids), frozenset(), len(encoder.tokenizer)
    )
    prompt = encoder.encode(ASKED)
    (request,) = vocabulary.requests(
        [prompt], group_size=1, sampling=Sampling(max_completion_tokens=len(ids) + 1), seed=0
    )
    raw = RawCompletion(ids, [-1.0] * len(ids), "stop")
    (completion,) = vocabulary.group(request, Answer(prompt.token_ids.tolist(), [raw]), 1)
    assert completion.token_ids.tolist() == ids
    return completion


@pytest.mark.parametrize(
    ("text", "style", "expected"),
    [
        (r"Perhaps \boxed{5}, no, \boxed{6}", "box", []),
        (r"Perhaps \boxed{5}. No.</think> So \boxed{6}", "box", ["6"]),
        ("Perhaps <answer>5</answer>", "tag", []),
        ("Perhaps 5. No.</think><answer>6</answer>", "tag", ["6"]),
    ],
)
def test_draft_in_opened_thinking_is_no_answer(
    encoder: PromptEncoder, text: str, style: str, expected: list[str]
) -> None:
    assert answers(written(encoder, text).text, style) == expected


@pytest.mark.parametrize(
    ("style", "text", "expected"),
    [
        ("think_box", r"It is 5.</think> \boxed{5}", 1.0),
        ("think_box", r"It is \boxed{5}.", 0.0),
        ("think_box", r"</think> \boxed{5}", 0.0),
        ("think_answer", "It is 5.</think>\n<answer>5</answer>", 1.0),
        ("think_answer", "<answer>5</answer>", 0.0),
    ],
)
def test_formats_with_thinking_can_be_met(
    encoder: PromptEncoder, style: str, text: str, expected: float
) -> None:
    term = Format(style=style)  # type: ignore[arg-type]
    assert term([ASKED], [[written(encoder, text)]]).tolist() == [[expected]]
