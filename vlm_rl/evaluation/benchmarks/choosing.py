r"""Read which options a response chooses, as a model does that extracts answers for scoring.

The first of these that is clear: letters and nothing else; an announcement ("the answer is (D)
70°", "答案:D"); a label that opens the text ("D) 70°"); the one letter in brackets; a letter that
closes the text; the words of one option. Nothing is guessed: an announced letter that is no option
chooses nothing. In a text with a box only the last box counts.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from vlm_rl.evaluation.benchmarks.cutting import has_words, last_box
from vlm_rl.verification.extraction import after_thinking

_LABELS = "ABCDEFGHI"
_ONE = r"(?:[(\[]\s*[A-I]\s*(?:[)\]]|\Z)|(?<![A-Za-z\\(])[A-I](?![A-Za-z'\u2019^_]|\s*=))"
_SEVERAL = (
    rf"{_ONE}(?:(?:\s*[,;、&]\s*(?:and\s+)?|\s+and\s+|\s*和\s*){_ONE}){{0,8}}"
    r"(?!\s+(?:is|are)\s+(?:also\s+)?(?:not|incorrect|wrong)\b)"
)
_LETTERS = re.compile(r"(?:\s*\d+\.?\s*)?[\s(\[]*[A-Ia-i](?:[\s,;&()\[\].]|and\b|[A-I](?![a-z]))*")
_NOUN = r"(?i:the|letters?|options?|choices?|answers?|image|figure|picture|diagram|shape|set|box)"
_ANNOUNCED = re.compile(
    r"(?i:\banswers?\b(?:[^.:\n]{0,50}?\b(?:is|are|be)\b)?"
    r"|\b(?:correct|right|best) (?:options?|choices?|ones?)\b(?:[^.:\n]{0,50}?\b(?:is|are|be)\b)?"
    r"|\b(?:is|are|be)(?=\s+(?:options?|choices?)\b)|\bthe (?:option|choice) (?:is|would be))"
    rf"[\s:=,\"'<>]*(?:(?i:definitely|therefore|indeed|{_NOUN})[\s:\"'<>]+){{0,3}}"
    rf"(?P<letters>{_SEVERAL}|[a-i](?=\W*(?:\n|\Z)))"
    rf"|(?:答案|选项|选择|选)[\s:是为应选]*(?P<chinese>{_SEVERAL})"
    rf"|(?P<confirmed>{_SEVERAL})[^.\n\"\u201c\u201d]{{0,80}}?"
    r" (?:is|are) (?:the )?(?:correct|right)\b"
)
_OPENING = re.compile(
    rf"(?:\d\.\s+)?(?:{_NOUN}\s+)?"
    rf"({_SEVERAL})(?:(?<=[)\]])|(?=\s*[.:)]|\s*-\s|\n|\s+[(\[]|,(?!\s*[A-I]\b)))"
)
_BRACKETED = re.compile(r"(?<![\w)])[(\[]\s*([A-I])\s*[)\]]")
_CLOSING = re.compile(rf"\b(?:is|are|be|choose|select|option|choice)\s+({_SEVERAL})\W*\Z")
_LISTED = re.compile(
    r"^[^\w\n]*(?:\d+\.\s*)?\(?([A-I])(?:[.:)]|\s*$|\s-)|(?<!\w)\(\s*([a-i])\s*\)",
    re.MULTILINE | re.IGNORECASE,
)
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boldsymbol)\s*\{([^{}]*)\}")
_DROPPED = re.compile(r"\\[()\[\]]|[*$#`\u200b\u200c\ufeff]|</?s>")
_ASCII = str.maketrans("\uff08\uff09\uff1a\u3010\u3011\uff0c\uff1b\uff0e", "():[],;.")
SENTENCE = re.compile(r"(?<=[.!?。])\s+|\n+")
_TOLD = re.compile(r"(?i:\banswer(?:\s+is\b|\s*:))|答案[:是为]?")
_SHORT = 5
_MARKED = re.compile(r"\(([A-I])\)|(?<![A-Za-z])([A-I])\s*[.:]")


def chosen(response: str, options: Mapping[str, str]) -> str | None:
    """Return the letters of the options that `response` chooses, in order: `BD`; None if it chooses
    none. `options` are the known texts by letter."""
    box = last_box(response)
    text = _plain(after_thinking(response) if box is None else box)
    letter, _, words = text.partition(" ")
    if box is not None and words and has_words(options.get(letter, ""), words):
        return letter  # `D 70` without a mark between
    letters = _labelled(text)
    if letters is not None:
        return letters if set(letters) <= set(options or _LABELS) else None
    if box is not None:
        return _worded([text], options)
    return None if _lists_options(text) else _worded(_statements(text), options)


def options_in(question: str) -> dict[str, str]:
    """Split the options that a question lists at its end, `(A) 3 (B) 4` or `A. 3; B: 4`; empty
    unless their letters are in order."""
    marks = list(_MARKED.finditer(question))
    starts = [n for n, mark in enumerate(marks) if (mark[1] or mark[2]) == "A"]
    marks = marks[starts[-1] :] if starts else []
    letters = [mark[1] or mark[2] for mark in marks]
    if len(letters) < 2 or "".join(letters) != _LABELS[: len(letters)]:
        return {}
    ends = [mark.start() for mark in marks[1:]] + [len(question)]
    texts = [question[m.end() : end].strip(" \n.,;") for m, end in zip(marks, ends, strict=True)]
    return dict(zip(letters, texts, strict=True))


def _plain(text: str) -> str:
    """Drop marks of emphasis and of LaTeX; brackets and colons become those of ASCII."""
    text = _DROPPED.sub("", _WRAPPED.sub(r"\1", text)).translate(_ASCII)
    return text.strip().strip("\"'").strip()


def _labelled(text: str) -> str | None:
    found = next(_candidates(text), None)
    if found is None:
        return None
    return "".join(sorted(set(re.findall("[A-I]", found.replace("and", " ").upper()))))


def _candidates(text: str) -> Iterator[str]:
    """Yield the letters that the text gives, the clearest first."""
    if _LETTERS.fullmatch(text):
        yield text
    announced = list(_ANNOUNCED.finditer(text))
    if announced:
        yield next(filter(None, announced[-1].groups()))
    if _lists_options(text):
        return
    if opening := _OPENING.match(text):
        yield opening[1]
    sentences = SENTENCE.split(text)
    for part in (text, sentences[-1]):
        bracketed = set(_BRACKETED.findall(part))
        if len(bracketed) == 1:
            yield bracketed.pop()
    for part in (sentences[-1], sentences[0]):
        if closing := _CLOSING.search(part):
            yield closing[1]


def _lists_options(text: str) -> bool:
    """Whether a response repeats the options of the question, so that a label is no choice."""
    lines = {line.upper() for line, _ in _LISTED.findall(text) if line}
    bracketed = {letter.upper() for _, letter in _LISTED.findall(text)}
    return len(lines) > 1 or {"A", "B"} <= lines | bracketed


def _statements(text: str) -> list[str]:
    """Return what follows the last announcement, then the last and the first sentence."""
    sentences = SENTENCE.split(text)
    announced = list(_TOLD.finditer(text))
    told = SENTENCE.split(text[announced[-1].end() :].strip())[:1] if announced else []
    return [*told, sentences[-1], sentences[0]]


def _worded(statements: Sequence[str], options: Mapping[str, str]) -> str | None:
    """Return the option whose words alone are in a statement, or that alone has all words of one;
    an option of one letter has no words."""
    known = {letter: text for letter, text in options.items() if len(text) > 1 or text.isdigit()}
    for statement in statements:
        found = [letter for letter, text in known.items() if has_words(statement, text)]
        found = [one for one in found if not any(_inside(known[one], known[o]) for o in found)]
        if not found and 0 < len(statement.split()) <= _SHORT:
            words = statement.rstrip(".")
            found = [letter for letter, text in known.items() if has_words(text, words)]
        if found:
            return found[0] if len({known[letter] for letter in found}) == 1 else None
    return None


def _inside(part: str, whole: str) -> bool:
    return part != whole and has_words(whole, part)
