"""Multiple choice: a letter, the value of an option, or both if they agree."""

import contextlib
import re

from vlm_rl.verification.algebra import Algebra
from vlm_rl.verification.exact_numbers import plain_number
from vlm_rl.verification.gold import Finding, Gold, GoldUnparsable, Unparsable
from vlm_rl.verification.notation import open_text, plain_text
from vlm_rl.verification.units import conversion, split_unit

_PREAMBLE = re.compile(r"^(?:the )?(?:correct )?(?:option|choice|answer)(?: is)?:?\s+(?=\S)", re.I)
_LETTERS = re.compile(r"\(?[A-Z]\)?(?:(?:\s*[,;/&]\s*|\s+(?:and|or)\s+|\s*)\(?[A-Z]\)?)*")
_LABELLED = re.compile(r"\(([A-Z])\)\s*(.+)|([A-Z])\s*[.:)]\s*(.+)", re.DOTALL)


def match_choice(gold: Gold, prediction: str, algebra: Algebra) -> Finding:
    """Match the gold's letters exactly; a letter beside a value must be that value's letter.

    Without known options only letters can be checked. A single letter can be an option as written:
    `y` of x, y and z. It is read so if it is not also the letter of an option. `a` of c, a and b
    is both: it stays the letter, unless the gold is written as an option, too. Raises
    GoldUnparsable for a gold that is neither a letter of an option nor an option.
    """
    expected = _gold_letters(gold)
    text = _PREAMBLE.sub("", open_text(prediction))
    if not text:
        raise Unparsable("empty answer")
    options, answer = [open_text(choice) for choice in gold.choices], open_text(gold.answer)
    if answer in options and text in options:  # may be labels in another order: (c), (a), (b)
        return _finding(text == answer, "option value")
    if options.count(text) == 1 and _names_no_option(text, len(options)):
        return _finding(expected == [chr(ord("A") + options.index(text))], "option value")
    if re.fullmatch(r"\(?[a-z]\)?", text):
        text = text.upper()
    if _LETTERS.fullmatch(text):
        return _finding(_letters(text) == expected, "letter")
    if labelled := _LABELLED.fullmatch(text):
        letter, value = labelled[1] or labelled[3], labelled[2] or labelled[4]
        if gold.choices and not _is_option(gold, letter, value, algebra):
            return Finding(False, "letter contradicts value")
        return _finding(expected == [letter], "letter with value")
    if len(expected) != 1 or not gold.choices:
        return Finding(False, "not a letter")
    return _finding(_is_option(gold, expected[0], text, algebra), "option value")


def _finding(right: bool, rule: str) -> Finding:
    return Finding(right, rule if right else f"another {rule}")


def _gold_letters(gold: Gold) -> list[str]:
    offered = [chr(ord("A") + index) for index in range(len(gold.choices) or 26)]
    text = open_text(gold.answer)
    if _LETTERS.fullmatch(text) and set(_letters(text)) <= set(offered):
        return _letters(text)
    for spelled in (open_text, plain_text):
        options = [spelled(choice) for choice in gold.choices]
        if spelled(gold.answer) in options:
            return [offered[options.index(spelled(gold.answer))]]
    raise GoldUnparsable("neither a letter of an option nor an option")


def _is_option(gold: Gold, letter: str, value: str, algebra: Algebra) -> bool:
    index = ord(letter) - ord("A")
    if index >= len(gold.choices):
        return False
    for spelled in (open_text, plain_text):
        options = [spelled(choice) for choice in gold.choices]
        if spelled(value) in options:
            return options[index] == spelled(value)
    (text, unit), (given_text, given_unit) = split_unit(gold.choices[index]), split_unit(value)
    number, given = plain_number(text), plain_number(given_text)
    if number is not None and given is not None:
        factor = conversion(unit, given_unit)
        return factor is not None and number == given * factor
    if not re.search(r"\d|\\", gold.choices[index]):
        return False  # words were compared as words above
    with contextlib.suppress(GoldUnparsable):  # not mathematics: only its letter can be right
        return algebra.equal(gold.choices[index], value)
    return False


def _names_no_option(text: str, num_options: int) -> bool:
    return bool(re.fullmatch("[A-Za-z]", text)) and ord(text.upper()) >= ord("A") + num_options


def _letters(text: str) -> list[str]:
    return sorted(set(re.findall(r"[A-Z]", text)))
