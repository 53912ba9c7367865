"""Options of a multiple-choice question as data sets write them, and whether they are shown.

In rows with columns that we do not know a column of options may belong to another question. They
are shown if the answer is one of them, by its letter or its words: it cannot be told without them.
"""

import json
import re

from vlm_rl.data.tables import BadRow

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LABEL = re.compile(r"\(?([A-Z])(?:\)|\.|:|\uff0e|\u3001)\s*(?=\S)")
_LETTER_ALONE = re.compile(r"\(?([A-Z])\)?[.:]?")
_SEVERAL = re.compile(r"[A-Z](?:\s*(?:,|;|&|and)?\s*[A-Z])*")


def options_of(value: object) -> tuple[str, ...]:
    """Return the options of a cell: a list, an object by letter, or one text with letters.

    Raises BadRow for anything else.
    """
    if isinstance(value, str):
        value = _from_text(value)
    if isinstance(value, dict):
        value = _from_object(value)
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        value = [one.get("text", one.get("content")) for one in value]
    if isinstance(value, list) and len(value) > 1:
        texts = [str(one) if isinstance(one, int | float) else one for one in value]
        if all(isinstance(text, str) and text.strip() for text in texts):
            return tuple(_without_label(texts))
    raise BadRow(
        "options not shown",
        f"options are written as {value!r:.100}, not as a list of texts or an object by letter; "
        "write them so, or leave the column out by `ignore`",
    )


def names_option(answer: str, options: tuple[str, ...]) -> bool:
    """Whether an answer is a letter, several letters, an option, or both beside each other."""
    text = answer.strip()
    offered = _LETTERS[: len(options)]
    if _is_letter(text) or _SEVERAL.fullmatch(text):
        return all(letter in offered for letter in text if letter in _LETTERS)
    words = _words(text)
    labelled = _LABEL.match(text)
    rest = _words(text[labelled.end() :]) if labelled else words
    return any(_words(option) in (words, rest) for option in options)


def chosen_elsewhere(answer: str, other: object) -> bool:
    """Whether `other` is the letter of an option and the answer itself is not: then the row has an
    answer for those who do not see the options."""
    return isinstance(other, str) and _is_letter(other.strip()) and not _is_letter(answer.strip())


def _is_letter(text: str) -> bool:
    return _LETTER_ALONE.fullmatch(text) is not None


def _words(text: str) -> str:
    return "".join(text.replace("$", "").split()).casefold()


def _from_text(text: str) -> object:
    if text.lstrip().startswith(("[", "{")):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    starts = [match.start() for match in _LABEL.finditer(text)]
    letters = [match[1] for match in _LABEL.finditer(text)]
    if len(letters) < 2 or letters != list(_LETTERS[: len(letters)]) or text[: starts[0]].strip():
        return text
    ends = [*starts[1:], len(text)]
    return [text[a:b].strip().rstrip(";,").strip() for a, b in zip(starts, ends, strict=True)]


def _from_object(value: dict[str, object]) -> object:
    if isinstance(value.get("text"), list):
        return value["text"]
    filled = {key: one for key, one in value.items() if one is not None}
    letters = list(filled)
    return list(filled.values()) if letters == list(_LETTERS[: len(letters)]) else value


def _without_label(texts: list[str]) -> list[str]:
    """Cut the letters off if all options begin with their own."""
    labels = [_LABEL.match(text.strip()) for text in texts]
    if [label and label[1] for label in labels] != list(_LETTERS[: len(texts)]):
        return texts
    return [text.strip()[label.end() :] for text, label in zip(texts, labels, strict=True) if label]
