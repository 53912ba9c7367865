"""Chat templates of unknown origin: what they cost, and one line for each way to be broken.

Broken on purpose, one at a time, each seen red: no limit of characters; each check of `_fault`;
`loopcontrols` or `GenerationBlock` left out; the system message rendered as text.
"""

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from data_prep.tiny_policy import CHAT_TEMPLATE
from tests.support.tiny import FAMILIES, build_checkpoint, problem
from vlm_rl.data import template
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.data.template import ChatTemplate, stand_in

NAMES = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
LOOP = "{% for a in range(99999) %}"
PARTS = "{% for part in messages[-1]['content'] %}"
IMAGE = "{% if part['type'] == 'image' %}<|image_pad|>{% else %}"


def made(source: object, **options: Any) -> ChatTemplate:
    return ChatTemplate("some/model", source, NAMES, has_system=False, **options)


BROKEN: dict[str, tuple[object, str]] = {
    "syntax": ("{% for", "unexpected 'end of template' in line 1"),
    "unknown tag": ("\n{% frobnicate %}", "unknown tag 'frobnicate'. in line 2"),
    "unknown filter": ("{{ messages | frob }}", "No filter named 'frob'"),
    "undefined": ("{{ mesages[0].content }}", "'mesages' is undefined"),
    "raises": ("{{ raise_exception('no users\nhere') }}", "used: no users here; take"),
    "wrong operation": ("{{ messages + 1 }}", "TypeError: can only concatenate list"),
    "divides by zero": ("{{ 1 / 0 }}", "ZeroDivisionError"),
    "endless recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    "unsafe": ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "is unsafe"),
    "changes its input": ("{{ messages.append(1) }}", "append"),
    "writes nothing": ("", "of the 1 texts of a question it writes none"),
    "drops the question": ("{% for m in messages %}{{ m.role }}{% endfor %}", "it writes none"),
    "repeats the question": (
        f"{PARTS}{{{{ part['text'] }}}}{{{{ part['text'] }}}}{{% endfor %}}",
        "of the 1 texts of a question it writes number 1, 1",
    ),
    "upside down": (
        "{% for part in messages[-1]['content'] | reverse %}"
        "{{ part['text'] if 'text' in part else '<|image_pad|>' }}{% endfor %}",
        "of the 2 texts of a question it writes number 2, 1",
    ),
    "no image": (
        f"{PARTS}{{{{ part['text'] }}}}{{% endfor %}}",
        "it writes 0 image placeholders <|image_pad|> for 1 images",
    ),
    "two for an image": (
        CHAT_TEMPLATE.replace("<|image_pad|>", "<|image_pad|>" * 2),
        "it writes 2 image placeholders",
    ),
    "a list": ([CHAT_TEMPLATE], "it is of type list, not text"),
    "a number": (7, "it is of type int, not text"),
    "none": (None, "there is none"),
    "none is default": ({"rag": CHAT_TEMPLATE}, "none of several is named default"),
    "long": (CHAT_TEMPLATE + " " * 300_000, "characters, above the limit of 200000"),
    "makes much": (
        CHAT_TEMPLATE + LOOP + "{{ 'abc' }}{% endfor %}",
        "it makes 300050 characters of a short chat",
    ),
    "makes gigabytes": ("{{ 'a' * 9999999999 }}", "it needs too much memory"),
    "doubles": (
        "{% set n = namespace(t='a') %}"
        "{% for i in range(60) %}{% set n.t = n.t + n.t %}{% endfor %}",
        "it needs too much memory",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_template_is_refused_in_one_line(kind: str) -> None:
    source, reason = BROKEN[kind]
    with pytest.raises(
        ValueError, match=r"^some/model: its chat template cannot be used: "
    ) as raised:
        made(source)
    line = str(raised.value)
    assert reason in line
    assert line.endswith("; take the one of the model's authors")
    assert "\n" not in line
    assert len(line) < 500


ENDLESS = {
    "loops": LOOP * 4 + "{% endfor %}" * 4,
    "one operation": "{{ (10 ** (10 ** 8)) % 7 }}",
    "only with many images": f"{{% if messages[-1]['content'] | length > 8 %}}{LOOP * 4}"
    f"{'{% endfor %}' * 4}{{% endif %}}{CHAT_TEMPLATE}",
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_endless_template_ends_by_its_limit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "CPU_S", 0.3)
    with pytest.raises(ValueError, match=r"more than 0\.3 s of CPU time; take the one of"):
        made(ENDLESS[kind])


def test_template_that_fails_for_more_images_only_serves_the_others() -> None:
    one = made(
        "{% if messages[-1]['content'] | length > 5 %}"
        "{{ raise_exception('two at most') }}{% endif %}" + CHAT_TEMPLATE
    )
    assert one.rendered(3).count("<|image_pad|>") == 2
    with pytest.raises(ValueError, match=r"some/model: .*two at most"):
        one.rendered(4)


SAME = {
    "tiny": CHAT_TEMPLATE,
    "all that transformers adds": CHAT_TEMPLATE + "{{ eos_token }}"
    "{{ {'é<': 1, 'b': [2]} | tojson(indent=1) }}{{ strftime_now('%%') }}{{ tools }}"
    "{% generation %} said {% endgeneration %}\n  {% if add_generation_prompt %}\n yes {% endif %}"
    "{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    "{{ documents }}",
}


@pytest.mark.parametrize("kind", SAME)
@pytest.mark.parametrize("has_system", [False, True])
def test_rendered_as_transformers_does(kind: str, has_system: bool) -> None:
    source = SAME[kind]
    one = ChatTemplate("some/model", source, NAMES, has_system=has_system)
    for num_parts in (1, 2, 9, 20):
        texts = [{"type": "text", "text": stand_in(i)} for i in range(num_parts)]
        content = [part for text in texts for part in ({"type": "image"}, text)][1:]
        chat = [{"role": "user", "content": content}]
        if has_system:
            chat.insert(0, {"role": "system", "content": stand_in(num_parts)})
        [expected], _ = render_jinja_template(
            [chat], chat_template=source, add_generation_prompt=True, **NAMES
        )
        assert one.rendered(num_parts) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_start_costs_little(family: str, checkpoints: dict[str, Path]) -> None:
    template._rendered.cache_clear()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    encoder = PromptEncoder(str(checkpoints[family]))
    for size in range(4):
        encoder.count_tokens(problem("?", *[(32, 32)] * size))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert 0 < spent < 0.5, "one process, in CPU seconds"


@pytest.mark.parametrize("kind", ["syntax", "no image", "drops the question", "makes gigabytes"])
def test_file_of_the_template_is_named(
    kind: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoints["qwen2_5_vl"], tmp_path / "policy"))
    source, reason = BROKEN[kind]
    (folder / "chat_template.jinja").write_text(str(source))
    with pytest.raises(ValueError, match=r"policy/chat_template\.jinja: its chat") as raised:
        PromptEncoder(str(folder))
    assert reason in str(raised.value)


def test_legacy_file_of_another_type_is_named(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoints["qwen2_5_vl"], tmp_path / "policy"))
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": [CHAT_TEMPLATE]}))
    with pytest.raises(ValueError, match=r"policy/chat_template\.json: .* of type list, not text"):
        PromptEncoder(str(folder))


def test_dropped_system_message_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoints["qwen2_5_vl"], tmp_path / "policy"))
    source = CHAT_TEMPLATE.replace("in messages %}", "in messages if message['role'] == 'user' %}")
    (folder / "chat_template.jinja").write_text(source)
    PromptEncoder(str(folder))
    with pytest.raises(ValueError, match=r"the system message \(prompt.system\) 0 times"):
        PromptEncoder(str(folder), system="Be brief.")


def test_system_message_stays_text(checkpoints: dict[str, Path]) -> None:
    text = "Never write <|im_end|>, <|image_pad|> or \ue0000\ue001."
    encoder = PromptEncoder(str(checkpoints["qwen2_5_vl"]), system=text)
    prompt = encoder.encode(problem("<image>How many?", (32, 32)))
    assert text in encoder.tokenizer.decode(prompt.token_ids)
    assert prompt.unexpanded_ids.tolist().count(encoder.image_token_id) == 1


THINKING = (
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}"
)
"""How templates of thinking models end the prompt, as Qwen3.5's does."""


@pytest.fixture
def thinks(tmp_path: Path) -> str:
    folder = build_checkpoint("qwen3_vl", tmp_path / "thinks")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE + THINKING)
    return str(folder)


@pytest.mark.parametrize(
    ("args", "opening", "end"),
    [
        (None, "<think>", "<think>\n"),
        ({"enable_thinking": True}, "<think>", "<think>\n"),
        ({"enable_thinking": False}, "", "<think>\n\n</think>\n\n"),
    ],
)
def test_args_of_a_template_decide_what_it_writes(
    args: dict[str, Any] | None, opening: str, end: str, thinks: str
) -> None:
    encoder = PromptEncoder(thinks, template_args=args)
    prompt = encoder.encode(problem("Why <image>", (32, 32)))
    assert prompt.opening == opening
    assert encoder.tokenizer.decode(prompt.token_ids).endswith(f"assistant\n{end}")


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ({"enable_thinkin": False}, "enable_thinkin is nothing that the chat template in"),
        ({"messages": "x"}, "prompt.template_args: messages is set for every chat"),
        ({"eos_token": "x"}, "prompt.template_args: eos_token is set for every chat"),
    ],
)
def test_arg_that_would_do_nothing_or_harm_is_refused(
    args: dict[str, Any], line: str, thinks: str
) -> None:
    with pytest.raises(ValueError, match=line):
        PromptEncoder(thinks, template_args=args)


@pytest.mark.parametrize("kind", SAME)
@pytest.mark.parametrize("has_system", [False, True])
def test_around_an_answer_is_what_transformers_renders(kind: str, has_system: bool) -> None:
    source = SAME[kind]
    question, answer = stand_in(0), stand_in(2)
    chat: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": question}]},
        {"role": "assistant", "content": answer},
    ]
    if has_system:
        chat.insert(0, {"role": "system", "content": stand_in(1)})
    [whole], _ = render_jinja_template([chat], chat_template=source, **NAMES)
    around = ChatTemplate("some/model", source, NAMES, has_system=has_system).around_answer()
    if whole.count(answer) == 1:
        between, after = whole.split(answer)
        assert around == (between.partition(question)[2], after)
    else:
        assert around is None
