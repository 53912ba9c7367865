"""Answers that are words: labels before them, and when two are the same."""

import functools
import re

from vlm_rl.verification.notation import COMMAND_WORDS, open_text, plain_text

_LABEL = re.compile(
    r"^(?P<text>\\text\{)?\s*(?:"
    r"(?:(?:so|thus|therefore|hence),?\s+)?(?:(?:the|my)\s+)?(?:(?:final|correct|right|best)\s+)*"
    r"(?:option|choice|answer|letter|solution|result)s?\b\s*(?:(?:is|are)\b|=)?\s*:?"
    r"|(?:about|approximately|roughly|around)\b"
    r"|(?:故|因此|所以)?(?:(?:正确)?(?:答案|选项)|答|解得?|应选|故选|选择?|[一总]?共有?|大?约)"
    r"(?:应该?)?(?:[是为=]|选(?!项)|等于)*\s*:?(?:选项)?"
    r")\s*(?P<end>\})?\s*(?=[^\s}])",
    re.IGNORECASE,
)
_BEHIND = re.compile(
    r"\s*(?:is|are) (?:the )?(?:correct|right)(?: (?:answer|option|choice|one)s?)?$"
    r"|\s*(?:选项|正确)$|\s*\((?:exact(?: value)?|simplified)\)$"
    r"|\s*\\text\{\s*\((?:exact(?: value)?|simplified)\)\s*\}$",
    re.IGNORECASE,
)
_NEGATIONS = re.compile(
    r"\b(?:not|no|never|isn|wrong|false|incorrect|without|neither|nor|except)\b|[不非否没无错]",
    re.I,
)
_ARTICLE = re.compile(r"^(?:the|an?) (?=\w)")
_SHORT = frozenset(
    (
        *("no", "up", "on", "in", "by", "at", "to", "of", "we", "he", "me", "my", "us", "go", "do"),
        *("if", "as", "an", "so", "am", "be", "it", "is"),
    )
)
_NO_WORDS = frozenset((*COMMAND_WORDS, "and"))
_CIRCLED = re.compile(r"(?:\\textcircled\s*\{?\d+\}?(?:[\s,、]|\band\b|和)*)+")
_CAPITALS = re.compile(r"[A-Z](?:(?:\s*[,、;]\s*|\s+and\s+|和|\s*)[A-Z])+")
_ABBREVIATED = {
    name[:3]: name
    for name in (
        *("january", "february", "march", "april", "may", "june", "july", "august", "september"),
        *("october", "november", "december", "monday", "tuesday", "wednesday", "thursday"),
        *("friday", "saturday", "sunday"),
    )
}
_TOKEN = r"(?:[^\W\d_]+|\d+(?:st|nd|rd|th)?)"
_PHRASE = re.compile(rf"{_TOKEN}(?:(?:[\s.'-]+|,\s+(?=\d)){_TOKEN})*")


def without_label(text: str) -> str:
    """Return `B` of `The answer is B`, `选B`, `B is correct`."""
    while label := _LABEL.match(text):
        text = (r"\text{" if label["text"] and not label["end"] else "") + text[label.end() :]
    return _BEHIND.sub("", text).strip() or text


def negates(text: str) -> bool:
    """Return whether a word of the text takes something back: `not`, `wrong`, `不`."""
    return bool(_NEGATIONS.search(text))


def listed_labels(text: str) -> frozenset[str] | None:
    """Return the labels that a text lists: `①③`, or two or more capitals, as in `A, C` or `AC`.

    Capitals without a mark between them are listed only beside a text that lists: the caller
    compares two.
    """
    text = open_text(text)
    if _CIRCLED.fullmatch(text):
        return frozenset(re.findall(r"\d+", text))
    return frozenset(re.findall("[A-Z]", text)) if _CAPITALS.fullmatch(text) else None


def is_phrase(text: str) -> bool:
    """Return whether a text is words, perhaps with numbers among them, not products of letters:
    `isosceles`, `June 20, 2020`, `第3个`, but not `ab` or `sin 20`."""
    text = open_text(text)
    if re.search("[\u4e00-\u9fff]", text):
        return not re.search(r"[\\=<>|]", text)
    long = {word.casefold() for word in re.findall(r"[^\W\d_]{3,}", text)}
    if re.fullmatch("[IVX]{2,}|[A-Z]{3,}", text):
        return True
    return (bool(long - _NO_WORDS) and bool(_PHRASE.fullmatch(text))) or text.lower() in _SHORT


def is_prose(text: str) -> bool:
    """Return whether a text that reads as nothing else is a sentence, with formulas or without."""
    text = open_text(text)
    if re.search("[\u4e00-\u9fff]{2}", text):
        return True
    words = re.findall(r"(?<![\\A-Za-z])[^\W\d_]{4,}", re.sub(r"\\begin\{\w+\}|\\[a-z]+", "", text))
    return bool(set(words) - _NO_WORDS) or not re.search(r"[\d\\=<>]", text)


def same_words(gold: str, given: str) -> bool:
    """Return whether texts are the same but for case, spacing, hyphens, articles, full stops, and
    months and days cut short."""
    return _bare(gold) == _bare(given)


_SUBSCRIPT = re.compile(r"_\{?(\d+)\}?(?!\d)")


@functools.lru_cache(maxsize=1 << 14)
def _bare(text: str) -> str:
    """Fold a text; spaces stay between words, where they tell `P Q` from `PQ` apart."""
    text = _SUBSCRIPT.sub(r"\1", plain_text(text))  # `CO₂`, but x² is not x2
    text = _ABBREVIATED.get(text, text)
    text = re.sub(r"(?<=\d), (?=\d{4}$)", " ", text)  # July 4, 1776
    text = re.sub(r",?\s+and\s+", ",", _ARTICLE.sub("", text))
    text = re.sub(r"(?<=[^\W\d_])-(?=[^\W\d_]{2})|(?<=\d)\s+(?=[^\W\d_])", _apart, text)
    return re.sub(r"\s*([^\w\s])\s*", r"\1", text)


def _apart(between: re.Match[str]) -> str:
    """Part words at a hyphen, and join a number with its unit: `well-known`, `6 m`."""
    return " " if between[0] == "-" else ""
