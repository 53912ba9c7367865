"""What ends a completion: all that any place of a checkpoint declares, in every engine.

Broken on purpose, each seen red: a place left out; the text part of the configuration left out; an
engine with the tokens of Qwen's chat alone.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny import build_checkpoint, problem, sharp_policy
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.rollout import Sampling, StopTokens, TransformersEngine
from vlm_rl.rollout.stop_tokens import OF_CHATS

OTHER = 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build_checkpoint("qwen3_vl", tmp_path / "policy")


def declare(folder: Path, name: str, value: object, *part: str) -> None:
    path = folder / name
    content: dict[str, Any] = json.loads(path.read_text())
    inner = content
    for key in part:
        inner = inner[key]
    inner["eos_token_id"] = value
    path.write_text(json.dumps(content))


def read(folder: Path) -> tuple[StopTokens, str, list[int]]:
    tokenizer = PromptEncoder(str(folder)).tokenizer
    stop = StopTokens.of(str(folder), tokenizer)
    return stop, stop.line(tokenizer), tokenizer.convert_tokens_to_ids(list(OF_CHATS))


PLACES = {
    "generation": ("generation_config.json", OTHER, ()),
    "several": ("generation_config.json", [OTHER, 41], ()),
    "outer": ("config.json", OTHER, ()),
    "text": ("config.json", OTHER, ("text_config",)),
}


@pytest.mark.parametrize("place", PLACES)
def test_each_place_that_declares_a_stop_token_is_heard(place: str, folder: Path) -> None:
    name, value, part = PLACES[place]
    declare(folder, name, value, *part)
    stop, line, chat = read(folder)
    assert stop.ids[:2] == tuple(chat)
    assert OTHER in stop.ids
    assert f"({OTHER})" in line
    assert "the checkpoint's own declarations differ: " in line
    assert f"{name} " in line


def test_declarations_that_agree_are_one_short_line(folder: Path) -> None:
    for name, part in (("generation_config.json", ()), ("config.json", ("text_config",))):
        declare(folder, name, PromptEncoder(str(folder)).tokenizer.eos_token_id, *part)
    stop, line, chat = read(folder)
    assert stop.ids == tuple(chat)
    ends = ", ".join(f"{token} ({one})" for token, one in zip(OF_CHATS, chat, strict=True))
    assert line == f"completions end with {ends}"


@pytest.mark.parametrize("content", [None, "{", "[]", '{"eos_token_id": "x"}'])
def test_file_that_is_missing_or_broken_declares_nothing(content: str | None, folder: Path) -> None:
    path = folder / "generation_config.json"
    path.unlink() if content is None else path.write_text(content)
    stop, _, chat = read(folder)
    assert stop.ids == tuple(chat)


def test_id_that_the_tokenizer_lacks_is_refused(folder: Path) -> None:
    declare(folder, "generation_config.json", 10**6)
    with pytest.raises(ValueError, match=r"generation_config.json declares the end-of-sequence id"):
        read(folder)


def test_engine_ends_where_only_one_place_says_so(folder: Path) -> None:
    """The same policy goes on behind the token without the declaration."""
    encoder = PromptEncoder(str(folder))
    policy, sampling = sharp_policy(folder), Sampling(max_completion_tokens=24)
    prompts = [encoder.encode(problem(f"What is {n}?")) for n in range(6)]

    def sampled() -> list[list[int]]:
        engine = TransformersEngine()
        engine.start(policy, encoder, sampling)
        groups = engine.generate(prompts, group_size=4, sampling=sampling, seed=3)
        return [completion.token_ids.tolist() for group in groups for completion in group]

    before = sampled()
    inner = [ids for ids in before if len(ids) > 2]
    token = inner[0][1]
    declare(folder, "generation_config.json", token)
    after = sampled()
    assert any(token in ids[:-1] for ids in before)
    assert any(ids[-1] == token for ids in after)
    assert not any(token in ids[:-1] for ids in after)
