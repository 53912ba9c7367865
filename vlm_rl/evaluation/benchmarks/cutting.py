r"""Cut the answer out of a response, the way that published scoring scripts do.

Nothing here is strict: the last box counts, and text without a box is searched for an announced
answer. Only the benchmarks' own rules use it; `vlm_rl.verification` rewards a policy.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vlm_rl.verification.extraction import after_thinking
from vlm_rl.verification.notation import plain_text

_BOX = re.compile(r"(?:\\|\x08)?[bB]?oxed\s*\{")  # \b of JSON is a backspace
_BRACE = re.compile(r"\\boxed\{|\\?[{}]")
_PHRASE = re.compile(r"the (?:(?:final|correct) )?answer (?:is|should be)", re.IGNORECASE)
_CLOSING_LETTER = re.compile(r" (?:\(([A-Z])\)|([A-Z]))\.\Z")
_OPENING_LETTER = re.compile(r"(?:\(([A-Z])\)(?: \1)?|([A-Z]))\n")
_CLOSING_NUMBER = re.compile(r"is\s+([-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?)\s*\.*\Z")
_MARKED = re.compile(r"\(([A-I])\)|(?<![A-Za-z])([A-I])\s*[.:\uff0e\uff1a]")


@dataclass(frozen=True)
class CutAnswer:
    """`how` says what marked the answer; with `text` nothing did, and it is the whole response."""

    answer: str
    how: Literal["letter", "number", "box", "phrase", "text"]


def cut(response: str, letters: str = "ABCDEFGH") -> CutAnswer | None:
    """Return the answer that `response` ends on, if any; `letters` are those of options.

    The first of these that exists: the letter of an option that closes or opens the text on its
    own; a number that closes it after "is"; the last box; what follows the last "the answer is", to
    the end of its sentence; the whole text. The order is that of the MATH-V evaluation script
    (github.com/mathllm/MATH-V, evaluation/evaluate.py); leaving out the thinking is ours.
    """
    text = after_thinking(response).strip()
    for match in (_CLOSING_LETTER.search(text), _OPENING_LETTER.match(text)):
        if match and (letter := match[1] or match[2]) in letters:
            return CutAnswer(letter, "letter")
    if number := _CLOSING_NUMBER.search(text):
        return CutAnswer(number[1], "number")
    content = last_box(text)
    if content is not None:
        return CutAnswer(content, "box") if content else None
    for announced in list(_PHRASE.finditer(text))[-1:]:
        sentence = text[announced.end() :].strip().split("\n")[0].split(". ")[0]
        return CutAnswer(sentence, "phrase") if sentence else None
    return CutAnswer(text, "text") if text else None


def last_box(response: str) -> str | None:
    """Return what is in the last box that holds anything; "" if none does, None without a box. Of a
    box in a box that is the inner one."""
    text, count = _BOX.subn(r"\\boxed{", after_thinking(response))
    open_braces: list[int] = []  # where a box starts, -1 for other braces
    last, content = -1, ""
    for brace in _BRACE.finditer(text):
        if brace[0] in ("{", r"\boxed{"):
            open_braces.append(-1 if brace[0] == "{" else brace.end())
        elif brace[0] == "}" and open_braces:
            start = open_braces.pop()
            if start > last and text[start : brace.start()].strip():
                last, content = start, text[start : brace.start()]
    return content if count else None


def letter_of(answer: str, last: str = "H") -> str | None:
    """Return the option that a cut answer names: `B`, `(b)`, `B. 14`, `\\text{(B)}`, not `Ball`;
    `last` is the letter of the last option."""
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1", answer).strip(" $.")
    some, small = f"[A-{last}]", f"[A-{last}a-{last.lower()}]"
    if bare := re.match(rf"[*\s]*\(?({small})\)?[.:)*\s]*\Z", text):
        return bare[1].upper()
    labelled = re.match(
        rf"[*\s]*(?:(?i:option|choice)\s*\(?({some})\b|\(({some})\)|({some})(?=[.:)]|\Z))", text
    )
    return next(filter(None, labelled.groups())) if labelled else None


def labels_in(text: str) -> int | None:
    """Count the options that `text` lists, as `(A) 3 (B) 4` or `A. 3; B: 4`; None without any."""
    labels = {marked[1] or marked[2] for marked in _MARKED.finditer(text)}
    letters = [letter for letter in "ABCDEFGHI" if letter in labels]
    in_order = len(letters) > 1 and "ABCDEFGHI".startswith("".join(letters))
    return len(letters) if in_order else None


def short(answer: CutAnswer | None, max_words: int = 5) -> CutAnswer | None:
    """Drop a whole response of more than `max_words` words: if nothing marks the answer, a long
    text has none."""
    if answer is None or (answer.how == "text" and len(answer.answer.split()) > max_words):
        return None
    return answer


def named_option(response: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option that is named last: `(B)`, else a B on its own, else the text
    of an option in a response of more than five words. None, never a guess, if none is named.

    This is how eval/eval_utils.py of github.com/MMMU-Benchmark/MMMU reads a response; it then
    guesses.
    """
    stripped = after_thinking(response).strip().strip(",.!?;:'")
    text = f" {stripped} "
    letters = [chr(ord("A") + index) for index in range(len(options))]
    places = [text.rfind(f"({letter})") for letter in letters]
    if max(places) < 0:
        places = [text.rfind(f" {letter} ") for letter in letters]
    if max(places) < 0 and len(text.split()) > 5:
        places = [text.lower().rfind(option.lower()) for option in options]
    return letters[places.index(max(places))] if max(places) >= 0 else None


def has_words(answer: str, gold: str) -> bool:
    """Whether the words of `gold` stand in `answer`, not as a part of other words or numbers."""
    pattern = rf"(?<![\w./^-]){re.escape(plain_text(gold))}(?!\w|[.,/^]\w)"
    return re.search(pattern, plain_text(answer)) is not None
