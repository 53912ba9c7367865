"""Multiple choice: a letter, the value of an option, or both if they agree."""

import contextlib
import re

from vlm_rl.verification.algebra import Algebra
from vlm_rl.verification.gold import Finding, Gold, GoldUnparsable, Unparsable
from vlm_rl.verification.notation import open_text, plain_text
from vlm_rl.verification.quantities import plain_number
from vlm_rl.verification.units import conversion, split_unit

_PREAMBLE = re.compile(r"^(?:the )?(?:correct )?(?:option|choice|answer)(?: is)?:?\s+(?=\S)", re.I)
_LETTERS = re.compile(r"\(?[A-Z]\)?(?:(?:\s*[,;/&]\s*|\s+(?:and|or)\s+|\s*)\(?[A-Z]\)?)*")
_LABELLED = re.compile(r"\(([A-Z])\)\s*(.+)|([A-Z])\s*[.:)]\s*(.+)", re.DOTALL)


def match_choice(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """Letters must be exactly the gold's; a letter beside a value must be that value's letter.

    Without known options only letters can be checked. A single letter that is one of the options as
    written, and as a capital the letter of none, is that option: `y` of x, y and z. Of options that
    are letters among A to their number, `a` of c, a and b, it stays the letter of an option, unless
    the gold is written as an option, too. Raises GoldUnparsable for a gold that is
    neither a letter of an option nor an option.
    """
    expected = _gold_letters(gold)
    text = _PREAMBLE.sub("", open_text(prediction))
    if not text:
        raise Unparsable("empty answer")
    options, answer = [open_text(choice) for choice in gold.choices], open_text(gold.answer)
    if answer in options and text in options:  # may be labels in another order: (c), (a), (b)
        return _found(text == answer, "option value")
    if options.count(text) == 1 and _names_no_option(text, len(options)):
        return _found(expected == [chr(ord("A") + options.index(text))], "option value")
    if re.fullmatch(r"\(?[a-z]\)?", text):
        text = text.upper()
    if _LETTERS.fullmatch(text):
        return _found(_letters(text) == expected, "letter")
    if labelled := _LABELLED.fullmatch(text):
        letter, value = labelled[1] or labelled[3], labelled[2] or labelled[4]
        if gold.choices and not _is_option(gold, letter, value, algebra):
            return Finding(False, "letter contradicts value")
        return _found(expected == [letter], "letter with value")
    if len(expected) != 1 or not gold.choices:
        return Finding(False, "not a letter")
    return _found(_is_option(gold, expected[0], text, algebra), "option value")


def _found(right: bool, rule: str) -> Finding:
    return Finding(right, rule if right else f"another {rule}")


def _gold_letters(gold: Gold) -> list[str]:
    offered = [chr(ord("A") + index) for index in range(len(gold.choices) or 26)]
    text = open_text(gold.answer)
    if _LETTERS.fullmatch(text) and set(_letters(text)) <= set(offered):
        return _letters(text)
    written = [open_text(choice) for choice in gold.choices]
    if text in written:
        return [offered[written.index(text)]]
    options = [plain_text(choice) for choice in gold.choices]
    if plain_text(gold.answer) in options:
        return [offered[options.index(plain_text(gold.answer))]]
    raise GoldUnparsable("neither a letter of an option nor an option")


def _is_option(gold: Gold, letter: str, value: str, algebra: Algebra) -> bool:
    index = ord(letter) - ord("A")
    if index >= len(gold.choices):
        return False
    written = [open_text(choice) for choice in gold.choices]
    if open_text(value) in written:
        return written[index] == open_text(value)
    options = [plain_text(choice) for choice in gold.choices]
    if plain_text(value) in options:
        return options[index] == plain_text(value)
    (text, unit), (given_text, given_unit) = split_unit(gold.choices[index]), split_unit(value)
    number, given = plain_number(text), plain_number(given_text)
    if number is not None and given is not None:
        factor = conversion(unit, given_unit)
        return factor is not None and number == given * factor
    if not re.search(r"\d|\\", gold.choices[index]):
        return False  # words are compared as words
    with contextlib.suppress(GoldUnparsable):  # an option that is no mathematics; its letter stands
        return algebra.equal(gold.choices[index], value)
    return False


def _names_no_option(text: str, num_options: int) -> bool:
    return bool(re.fullmatch("[A-Za-z]", text)) and ord(text.upper()) >= ord("A") + num_options


def _letters(text: str) -> list[str]:
    return sorted(set(re.findall(r"[A-Z]", text)))
