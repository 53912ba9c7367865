"""Multiple choice: letters, the value of an option, or a letter with its value in any layout."""

import re
from collections.abc import Callable, Sequence

from vlm_rl.verification.equality import Equality
from vlm_rl.verification.gold import Finding, Gold, GoldUnparsable, Unparsable
from vlm_rl.verification.names import name_of
from vlm_rl.verification.notation import enclosed, normalise, open_text, tokens
from vlm_rl.verification.reading import read
from vlm_rl.verification.values import Collection, has_unit
from vlm_rl.verification.words import is_phrase, negates, same_words, without_label

_SEPARATOR = r"(?:\s*[,;/&、+]\s*|\s+and\s+|\s*[和与]\s*|\s*)"
_LETTER = r"(?:\(\s*[A-Z]\s*\)|\[\s*[A-Z]\s*\]|\{?[A-Z]\}?)"
_LETTERS = re.compile(rf"(?:\\\{{\s*)?{_LETTER}(?:{_SEPARATOR}{_LETTER})*(?:\s*\\\}})?")
_LETTER_FIRST = re.compile(
    r"(?P<bracket>[\[(]\s*)?(?P<letter>[A-Z])(?(bracket)\s*[\])])(?P<mark>\s*[.:)、=-]|\s*)\s*(?P<value>\S.*)",
    re.DOTALL,
)
_WORD = re.compile("[a-z]{2,}|[A-Za-z]{3,}")
_DOUBLED = re.compile(r"([A-Z])\1")
_NUMERAL = re.compile("[IVXLCDM]{2,}")
_LETTER_LAST = re.compile(r"(?P<value>.*\S)\s*[\[(]\s*(?P<letter>[A-Z])\s*[\])]", re.DOTALL)


def match_choice(gold: Gold, prediction: str, equality: Equality) -> Finding:
    """Match the gold's letters exactly; a letter beside a value must be that value's letter.

    Without known options only letters can be checked. A single letter can be an option as written:
    `y` of x, y and z. It is read so if it is not also the letter of an option, or if the gold is
    written as an option. Raises GoldUnparsable for a gold that is neither a letter of an option nor
    an option.
    """
    options = _Options(gold.choices, equality)
    text = re.sub(r"^\{([^{}]*)\}$", r"\1", open_text(prediction)).strip()
    text = re.sub(r"^([A-Za-z])\)$", r"\1", text)
    text = text if options.written(text) else without_label(text)
    if not text:
        raise Unparsable("empty answer")
    expected = options.expected = options.letters_of(gold.answer)
    if expected is None:
        if gold.choices:
            raise GoldUnparsable("neither a letter of an option nor an option")
        return _finding(same_words(gold.answer, prediction), "words")
    if gold.answer in gold.choices and any(same_words(choice, text) for choice in gold.choices):
        return _finding(same_words(gold.answer, text), "option value")
    letters, rule = options.chosen(text)
    return _finding(letters == expected, rule)


class _Options:
    def __init__(self, choices: Sequence[str], equality: Equality) -> None:
        self._choices = choices
        self._equality = equality
        self.expected: list[str] | None = None
        self._offered = [chr(ord("A") + index) for index in range(len(choices) or 26)]

    def letters_of(self, answer: str) -> list[str] | None:
        """Return the letters that a gold stands for, None if it stands for none."""
        text = open_text(answer)
        text = text.upper() if re.fullmatch(r"\([a-z]\)", text) and not self.written(text) else text
        if _LETTERS.fullmatch(text) and set(_capitals(text)) <= set(self._offered):
            return _capitals(text)
        if written := self.written(text):
            return written
        labelled = self._labelled(text)
        return (labelled and labelled[0]) or self._valued(text) or None

    def chosen(self, text: str) -> tuple[list[str], str]:
        """Return the letters that an answer chooses, and what they were read from."""
        # a small letter alone chooses only if it is offered
        capital = text.upper() if re.fullmatch(r"\(?[a-z]\)?", text) else text
        listed = _LETTERS.fullmatch(capital) and not _DOUBLED.search(capital)
        letters = _capitals(capital) if listed else []
        if len(letters) == 1 and letters[0] in self._offered:
            return letters, "letter"
        if written := self.written(text):
            return written, "option value"
        labelled = self._labelled(text)
        agree = bool(self._choices) and ((labelled and labelled[0]) or self._valued(text))
        if letters and capital == text and not agree:
            return letters, "letter"
        return labelled or (self._valued(text) or self._chain(text), "option value")

    def written(self, text: str) -> list[str]:
        """Return the letter of the only option with these words."""
        return self._only(lambda choice: open_text(choice) == text) or self._only(
            lambda choice: same_words(choice, text)
        )

    def _labelled(self, text: str) -> tuple[list[str], str] | None:
        """Read a letter with a value. What has no mark between them is one only if they agree."""
        text = re.sub(r"^\([a-z]\)(?=\s)", lambda small: small[0].upper(), text)
        if last := _LETTER_LAST.fullmatch(text):
            letter, values, sure = last["letter"], [last["value"]], True
        elif first := _LETTER_FIRST.fullmatch(text):
            letter, mark, value = first["letter"], first["mark"].strip(), first["value"].strip()
            marked = mark in (*".:)、",) or (value.startswith("(") and first["mark"] != "")
            sure = marked or first["bracket"] is not None
            values = [value]
            if value[0] + value[-1] == "()" and enclosed(tokens(value)):
                values.append(value[1:-1])  # `A (5)`, but also `A (0, 5)`
            if mark == "-":  # a minus in `(A) -1`, a mark or a minus in `(A) - 1`
                values.append(f"-{value}")
                if value == text[first.end("mark") :] and self._written_or_valued(values[-1]):
                    values = values[-1:]
        else:
            return None
        if not self._choices:
            alone = sure and any(map(_is_value, values))
            return ([letter] if alone else [], "letter with value")
        if not any(letter in self._written_or_valued(v) for v in values):
            return ([], "letter that contradicts its value") if sure else None
        return [letter], "letter with value"

    def _written_or_valued(self, text: str) -> list[str]:
        return self.written(text) or self._valued(text)

    def _valued(self, text: str) -> list[str]:
        """Return the letter of the only option with this value; `B = 5` names a letter, too."""
        if re.match(r"[A-Z]\s*=", text) and text[0] in self._offered:
            return []
        return self._only(lambda choice: self._same(choice, text))

    def _only(self, fits: Callable[[str], bool]) -> list[str]:
        """Return the letter of the only option that fits, no letter if several do."""
        lettered = zip(self._offered, self._choices, strict=False)
        fitting = [(letter, choice) for letter, choice in lettered if fits(choice)]
        same = len({open_text(choice) for _, choice in fitting}) == 1
        return [self._preferred(fitting)] if same else []

    def _preferred(self, fitting: Sequence[tuple[str, str]]) -> str:
        """Return the letter of an option that is written twice: the gold's, if it is one."""
        letters = [letter for letter, _ in fitting]
        return next((letter for letter in self.expected or () if letter in letters), letters[0])

    def _same(self, choice: str, text: str) -> bool:
        if same_words(choice, text):
            return True
        if _WORD.fullmatch(text) or negates(text) or _NUMERAL.search(text):
            return False
        try:
            option, given = read(choice), read(text)
            if has_unit(option) != has_unit(given):  # `42 m` beside `42 metres`
                option, given = read(choice, lenient=True), read(text, lenient=True)
            return self._equality.same(option, given)
        except Unparsable:
            return False

    def _chain(self, text: str) -> list[str]:
        """Read `x = 2 = \\text{(B)} 2`, of which every claim must be for the same letter."""
        first, *claims = (side.strip() for side in text.split("="))
        if not self._choices or not claims or not all(claims) or negates(text):
            return []
        named = name_of(tokens(normalise(first))) or self._valued(first) or first in self._offered
        if not (named or re.fullmatch(r"[\d.\s]*", first)):
            return []
        chosen = [self.chosen(side)[0] for side in claims]
        if self._valued(first) or re.fullmatch(r"[\d.\s]*|[A-Z]", first):
            chosen.append(self.chosen(first)[0])
        return chosen[0] if all(letters == chosen[0] for letters in chosen) else []


def _is_value(text: str) -> bool:
    """Return whether a text beside a letter is one value, and not words or further letters."""
    if is_phrase(text) or re.search(r"[A-Z]\s*[.:)]|^\(?[A-Za-z]\)?$|\bor\b", text):
        return False
    try:
        value = read(text)
    except Unparsable:
        return False
    return not (isinstance(value, Collection) and not value.bracket)


def _finding(right: bool, rule: str) -> Finding:
    return Finding(right, rule if right or "contradicts" in rule else f"another {rule}")


def _capitals(text: str) -> list[str]:
    return sorted(set(re.findall("[A-Z]", text)))
