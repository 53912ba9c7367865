"""Cut the answer out of a completion: only text after the thinking, only answer slots."""

import re
from collections.abc import Iterator
from typing import Literal, get_args

from vlm_rl.verification.gold import MAX_CHARACTERS
from vlm_rl.verification.notation import normalise

AnswerStyle = Literal["box", "tag", "answer_line"]
ANSWER_STYLES: tuple[str, ...] = get_args(AnswerStyle)

_MAX_ANSWERS = 100
_BRACE = re.compile(r"\\[{}]|\\(?:boxed|fbox)\s*\{|[{}]")
_LINE = re.compile(
    r"^[ \t>*_#]*(?:the[ \t]+)?(?:final[ \t]+)?answer[ \t*_]*[:\uff1a](.*)$",
    re.IGNORECASE | re.MULTILINE,
)


def answers(text: str, style: str) -> list[str]:
    """Return the answers in the slots of `style` by their spelling, in order, without empty ones.

    Only text after the last `</think>` counts; thinking that never ends gives no answer, nor does
    a box that never closes, or holds another box beside something else. The list ends at a hundred.
    """
    distinct: dict[str, str] = {}
    for slot in dict.fromkeys(_slots(after_thinking(text), style)):
        for answer in filter(str.strip, dict.fromkeys(_without_box(slot))):
            short = len(answer) <= MAX_CHARACTERS  # longer ones are refused unread anyway
            distinct.setdefault(normalise(answer) if short else answer, answer.strip())
            if len(distinct) == _MAX_ANSWERS:
                return list(distinct.values())
    return list(distinct.values())


def _without_box(slot: str) -> list[str]:
    """Return what boxes in a slot hold if nothing but fences is beside them, else the slot."""
    contents = boxes(slot)
    around = slot
    for content in contents:
        around = around.replace(content, "", 1)
    fenced = re.sub(r"\\(?:boxed|fbox)\s*|\\[\[\]()]|[\s${}*.]", "", around)
    return contents if contents and not fenced else [slot]


def after_thinking(text: str) -> str:
    """Return the text after the last `</think>`, or before a `<think>` that never ends."""
    _, closed, rest = text.rpartition("</think>")
    return rest if closed else text.partition("<think>")[0]


def boxes(text: str) -> list[str]:
    """Return the contents of each `\\boxed{}` in order, with matched braces.

    Of a box inside a box only the inner one counts, and only if the outer one holds nothing else:
    otherwise no box counts, nor where one never closes. One pass, so that no completion can make it
    slow.
    """
    contents: list[str] = []
    open_braces: list[int | None] = []  # where the content of a box starts, None for other braces
    inner: tuple[int, int] | None = None  # where the last box began and ended
    for brace in _BRACE.finditer(text):
        if brace[0] in (r"\{", r"\}"):
            continue
        if brace[0] != "}":
            open_braces.append(None if brace[0] == "{" else brace.end())
        elif open_braces:
            start = open_braces.pop()
            if start is None:
                continue
            if inner is None or inner[0] < start:
                contents.append(text[start : brace.start()])
            elif _BRACE.sub("", text[start : inner[0]] + text[inner[1] : brace.start()]).strip():
                return []
            inner = start, brace.end()
    return [] if any(start is not None for start in open_braces) else contents


def tags(text: str, name: str) -> Iterator[str]:
    """Yield the contents of each `<name>...</name>` in order; skip one that never closes."""
    for piece in text.split(f"<{name}>")[1:]:
        content, closed, _ = piece.partition(f"</{name}>")
        if closed:
            yield content


def _slots(body: str, style: str) -> list[str]:
    if style == "box":
        return boxes(body)
    if style == "tag":
        return list(tags(body, "answer"))
    return [line.strip(" *_\t\r") for line in _LINE.findall(body)]
