r"""Cuts the answer out of a response the way that published scoring scripts do.

Nothing here is strict: the last box counts, and text without a box is searched for an announced
answer. It serves the benchmarks' own rules; what rewards a policy is `vlm_rl.verification`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vlm_rl.verification.extraction import after_thinking, boxes
from vlm_rl.verification.notation import plain_text

_BOX = re.compile(r"(?:\\|\x08)?[bB]?oxed\s*\{")  # \b of JSON is a backspace
_PHRASE = re.compile(r"the (?:(?:final|correct) )?answer (?:is|should be)", re.IGNORECASE)
_CLOSING_LETTER = re.compile(r" (?:\(([A-Z])\)|([A-Z]))\.\Z")
_OPENING_LETTER = re.compile(r"(?:\(([A-Z])\)(?: \1)?|([A-Z]))\n")
_CLOSING_NUMBER = re.compile(r"is\s+([-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?)\s*\.*\Z")
_BARE = re.compile(r"[*\s]*\(?([A-Ha-h])\)?[.:)*\s]*\Z")
_MARKED = re.compile(r"\(([A-I])\)|(?<![A-Za-z])([A-I])\s*[.:\uff0e\uff1a]")
_LABELLED = re.compile(
    r"[*\s]*(?:(?i:option|choice)\s*\(?([A-H])\b|\(([A-H])\)|([A-H])(?=[.:)]|\Z))"
)


@dataclass(frozen=True)
class Cut:
    """`how` says what the answer stood in: `text` is the whole response, where nothing marks it."""

    answer: str
    how: Literal["letter", "number", "box", "phrase", "text"]


def cut(response: str, letters: str = "ABCDEFGH") -> Cut | None:
    """The answer that `response` ends on, None where there is none; `letters` are those of options.

    In this order: the letter of an option that closes or opens the text on its own; a number that
    closes it after "is"; the last box; what follows the last "the answer is", to the end of its
    sentence; all of it. The order is that of the MATH-V evaluation script
    (github.com/mathllm/MATH-V, evaluation/evaluate.py); that thinking is left out is ours.
    """
    text = after_thinking(response).strip()
    for found in (_CLOSING_LETTER.search(text), _OPENING_LETTER.match(text)):
        if found and (letter := found[1] or found[2]) in letters:
            return Cut(letter, "letter")
    if number := _CLOSING_NUMBER.search(text):
        return Cut(number[1], "number")
    boxed = _BOX.sub(r"\\boxed{", text)
    if boxed != text or r"\boxed{" in text:
        contents = [content for content in boxes(boxed) if content.strip()]
        return Cut(contents[-1], "box") if contents else None
    for announced in list(_PHRASE.finditer(text))[-1:]:
        sentence = text[announced.end() :].strip().split("\n")[0].split(". ")[0]
        return Cut(sentence, "phrase") if sentence else None
    return Cut(text, "text") if text else None


def letter_of(answer: str) -> str | None:
    """The option that a cut answer names: `B`, `(b)`, `B. 14` and `\\text{(B)}`, not `Ball`."""
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1", answer).strip(" $.")
    if found := _BARE.match(text):
        return found[1].upper()
    found = _LABELLED.match(text)
    return next(filter(None, found.groups())) if found else None


def labels_in(text: str) -> int | None:
    """How many options `text` lists, as `(A) 3 (B) 4` or `A. 3; B: 4`; None where it lists none."""
    found = {marked[1] or marked[2] for marked in _MARKED.finditer(text)}
    letters = [letter for letter in "ABCDEFGHI" if letter in found]
    in_order = len(letters) > 1 and "ABCDEFGHI".startswith("".join(letters))
    return len(letters) if in_order else None


def short(found: Cut | None, words: int = 5) -> Cut | None:
    """None also for a whole response of more than `words` words: where nothing marks the answer,
    a long text has none."""
    if found is None or (found.how == "text" and len(found.answer.split()) > words):
        return None
    return found


def named_option(response: str, options: Sequence[str]) -> str | None:
    """The letter of the option that is named last: `(B)`, else a B on its own, else the text of an
    option in a response of more than five words. None, never a guess, where none is.

    So eval/eval_utils.py of github.com/MMMU-Benchmark/MMMU reads a response, which then guesses.
    """
    stripped = after_thinking(response).strip().strip(",.!?;:'")
    text = f" {stripped} "
    letters = [chr(ord("A") + index) for index in range(len(options))]
    found = [text.rfind(f"({letter})") for letter in letters]
    if max(found) < 0:
        found = [text.rfind(f" {letter} ") for letter in letters]
    if max(found) < 0 and len(text.split()) > 5:
        found = [text.lower().rfind(option.lower()) for option in options]
    return letters[found.index(max(found))] if max(found) >= 0 else None


def has_words(answer: str, gold: str) -> bool:
    """Whether the words of `gold` stand in `answer`, not as a part of other words."""
    words = rf"(?<!\w){re.escape(plain_text(gold))}(?!\w)"
    return re.search(words, plain_text(answer)) is not None
