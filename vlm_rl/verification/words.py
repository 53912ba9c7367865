"""Words beside an answer: the name of a unit, a phrase, or what takes the answer back."""

import re

from vlm_rl.verification.notation import open_text
from vlm_rl.verification.number_words import NUMBER_WORDS

_HEDGES = NUMBER_WORDS | frozenset(
    (
        *("or", "and", "nor", "not", "but", "maybe", "perhaps", "possibly", "probably", "vs"),
        *("versus", "if", "either", "neither", "else", "otherwise", "alternatively", "instead"),
        *("also", "unless", "except", "might", "could", "to", "rather", "both", "then", "unsure"),
    )
)
_CHINESE_HEDGE = re.compile("[或和与及不非若零一二三四五六七八九十百两]|还是|可能|也许")
_WORD = re.compile(r"[^\W\d_]+")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_FUNCTIONS = frozenset(
    (
        *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "log", "exp"),
        *("sqrt", "infty", "alpha", "beta", "theta", "and"),
    )
)
_TOKEN = r"(?:[^\W\d_]+|\d+(?:st|nd|rd|th)?)"
_PHRASE = re.compile(rf"{_TOKEN}(?:(?:[\s.'-]+|,\s+(?=\d)){_TOKEN})*")


def takes_back(text: str) -> bool:
    """Whether a word of it names another number or an alternative: `or`, `not`, `four`."""
    words = {word.casefold() for word in _WORD.findall(_COMMAND.sub(" ", text))}
    return bool(words & _HEDGES) or bool(_CHINESE_HEDGE.search(text))


def may_be_unit(text: str) -> bool:
    """One to three words without digits or punctuation of a sentence, none of which takes back."""
    text = open_text(text)
    plain = not re.search(r"[\d,;:=<>?!|]", re.sub(r"\^\{?-?\d\}?$", "", text))
    return plain and 1 <= len(_WORD.findall(text)) <= 3 and not takes_back(text)


def is_phrase(text: str) -> bool:
    """Words, perhaps with numbers among them, that no parser should read as products of letters:
    `isosceles`, `June 20, 2020`, but not `ab` or `sin 20`."""
    text = open_text(text)
    words = {word.casefold() for word in _WORD.findall(text) if len(word) > 2}
    return bool(words - _FUNCTIONS) and bool(_PHRASE.fullmatch(text))
