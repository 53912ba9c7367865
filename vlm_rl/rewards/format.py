"""The format term: does a completion have the form that its prompt asked for?"""

import re
from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor

from vlm_rl.records import Completion, Groups, Problem
from vlm_rl.rewards.term import RewardTerm, each_completion
from vlm_rl.verification.extraction import boxes, tags

FormatStyle = Literal["box", "think_box", "think_answer"]


class Format(RewardTerm):
    """1 for a completion that ends by itself and has exactly the form of `style`, else 0.

    `box`: one `\\boxed{}`, not empty. `think_box`: first one `<think>` block, not empty, then one
    such box. `think_answer`: one `<think>` block, then one `<answer>` block, with nothing before,
    between or after.
    """

    def __init__(self, weight: float = 0.1, style: FormatStyle = "box") -> None:
        super().__init__(weight)
        if style not in _STYLES:
            raise ValueError(f"Format.style must be one of {', '.join(_STYLES)}, got {style!r}")
        self.style = style

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        return each_completion(groups, self._value)

    def _value(self, completion: Completion) -> float:
        return float(not completion.truncated and _STYLES[self.style](completion.text))


def _one_box(text: str) -> bool:
    # counting the command too: a box that does not close, or holds another, is one too many
    contents = list(boxes(text))
    opened = len(re.findall(r"\\(?:boxed|fbox)(?![a-z])", text))
    return len(contents) == opened == 1 and bool(contents[0].strip())


def _think_then_box(text: str) -> bool:
    rest = _rest_after_thinking(text)
    return rest is not None and _one_box(rest)


def _think_then_answer(text: str) -> bool:
    rest = _rest_after_thinking(text)
    if rest is None or rest.count("<answer>") != 1 or rest.count("</answer>") != 1:
        return False
    rest = rest.strip()
    contents = list(tags(rest, "answer"))
    whole = rest.startswith("<answer>") and rest.endswith("</answer>")
    return whole and len(contents) == 1 and bool(contents[0].strip())


def _rest_after_thinking(text: str) -> str | None:
    """Return the text behind one thinking block at the start, None without such a block."""
    text = text.strip()
    if text.count("<think>") != 1 or text.count("</think>") != 1 or not text.startswith("<think>"):
        return None
    thinking, _, rest = text.removeprefix("<think>").partition("</think>")
    return rest if thinking.strip() else None


_STYLES: dict[str, Callable[[str], bool]] = {
    "box": _one_box,
    "think_box": _think_then_box,
    "think_answer": _think_then_answer,
}
