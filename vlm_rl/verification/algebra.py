"""Computer algebra behind one interface: math-verify in a checking process, absent elsewhere.

math-verify can run for hours on a short string. Its own time limits do not work in threads, and
they disarm the caller's alarms. So it is asked without limits, and only in a process that can be
killed. Before it parses a text, hazards are refused and the letters it would confuse are renamed.
"""

import logging
import math
import re
from fractions import Fraction
from typing import Any, Protocol

from vlm_rl.verification.gold import GoldUnparsable, Unparsable, reading_gold
from vlm_rl.verification.notation import TEXT_COMMAND, mathematics
from vlm_rl.verification.units import may_be_unit, takes_back

_DIGITS = 30
_FAILURES = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError),
    ValueError,
)
"""What math-verify and sympy raise on mathematics for which they have no method."""


class Algebra(Protocol):
    """What matchers may ask. Both raise Unparsable for a prediction that cannot be read."""

    def equal(self, gold: str, prediction: str) -> bool: ...

    def value(self, text: str) -> Fraction | None: ...


class NeedsAlgebra(Exception):
    """Exact arithmetic on the text cannot decide the question: ask a checking process."""


class NoAlgebra:
    """The algebra of a process that must not be put at risk: it defers every question."""

    def equal(self, gold: str, prediction: str) -> bool:
        raise NeedsAlgebra

    def value(self, text: str) -> Fraction | None:
        raise NeedsAlgebra


class MathVerify:
    """math-verify without its time limits: for a process that is killed when it takes too long."""

    def __init__(self) -> None:
        # here, because the trainer's process imports this module and must not pay for it
        import math_verify
        from latex2sympy2_extended import NormalizationConfig

        logging.getLogger("math_verify").setLevel(logging.ERROR)  # warns once that limits are off
        self._math_verify = math_verify
        self._config = math_verify.LatexExtractionConfig(
            boxed_match_priority=0,
            try_extract_without_anchor=False,
            normalization_config=NormalizationConfig(units=True, boxed="last"),
        )

    def equal(self, gold: str, prediction: str) -> bool:
        """Return whether both are the same mathematical object.

        The gold comes first, since equality is not symmetric in math-verify. Raises
        GoldUnparsable, Unparsable.
        """
        with reading_gold():
            gold = _readable(gold)
        gold, prediction = with_distinct_letters(gold, _readable(prediction))
        with reading_gold():
            expected = self._parse(gold)
        given = self._parse(prediction)
        try:
            return self._same(expected, given)
        except _FAILURES as failure:
            self._check_comparable(expected)
            raise Unparsable("not comparable") from failure

    def value(self, text: str) -> Fraction | None:
        """Return the real number that `text` evaluates to, None if it is not one real number."""
        expression = self._parse(*with_distinct_letters(_readable(text)))
        if not getattr(expression, "is_number", False):
            return None
        try:
            number = expression.evalf(_DIGITS)
        except _FAILURES as failure:
            raise Unparsable("not read as mathematics") from failure
        if not (number.is_Float or number.is_Rational):
            return None
        value = Fraction(str(number))
        nearest = round(value)
        # thirty digits of log_2 8 are 3 up to the last of them
        return Fraction(nearest) if abs(value - nearest) < Fraction(1, 10**20) else value

    def _parse(self, text: str) -> Any:
        try:
            parsed = self._math_verify.parse(
                rf"\boxed{{{text}}}",
                [self._config],
                fallback_mode="no_fallback",
                extraction_mode="first_match",
                parsing_timeout=None,
            )
        except _FAILURES as failure:
            raise Unparsable("not read as mathematics") from failure
        if not parsed:
            raise Unparsable("not read as mathematics")
        return parsed[0]

    def _same(self, gold: Any, prediction: Any) -> bool:
        return bool(
            self._math_verify.verify(gold, prediction, timeout_seconds=None, raise_on_error=True)
        )

    def _check_comparable(self, gold: Any) -> None:
        try:
            self._same(gold, gold)
        except _FAILURES as failure:
            raise GoldUnparsable("not comparable with itself") from failure


_AFTER_UNIT = re.compile(
    r"\s*(?:$|[^\w({\\]|\\[\\}]|\\(?:cup|cap|leq?|geq?|times|cdot|text|mathrm)(?![a-z]))"
)


def _readable(text: str) -> str:
    """Return LaTeX in which no text command hides what math-verify would drop with it.

    It drops text commands. Only a unit at the end of a number may go that way; all other text is
    taken out of its command, to be read. Raises Unparsable for text that takes the answer back,
    and for hazards.
    """
    text, count = mathematics(text), 1
    while count:
        text, count = _open_commands(text)
    if takes_back(text):
        raise Unparsable("words beside the answer")
    refuse_hazard(text)
    return text


def _open_commands(text: str) -> tuple[str, int]:
    """Open the innermost text commands that are not units; return the text and their number."""
    parts, start, count = [], 0, 0
    for command in TEXT_COMMAND.finditer(text):
        if may_be_unit(command[1]) and _AFTER_UNIT.match(text, command.end()):
            continue
        parts += [text[start : command.start()], command[1]]
        start, count = command.end(), count + 1
    return "".join((*parts, text[start:])), count


_MAX_NESTING = 15
_MAX_POWER_OF_POWERS = 10_000
_HAZARDS = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("tower", r"\^\s*(?:-?\d+|[{(][^{}^]*\d[)\s]*)\^\s*[{(]?[^{}]*\d"),
        ("huge exponent", r"\^\s*[{(]*\s*-?\d{5,}"),
        ("factorial", r"(?:\d{4}|!|\^[^(){}!]*\}?)\s*[)}]?\s*!|\([^()]*\d{3}[^()]*\)\s*!"),
        ("binomial", r"binom\s*\{[^{}]*(?:\d{4}|\^)|binom[^{}]*\d{4}"),
        ("exercise", r"\\(?:int|iint|oint|sum|prod|lim)(?![a-z])"),
        ("many powers", r"(?:\^[^^]*){20}"),
        ("huge number", r"\d{100}"),
        ("long word", r"[A-Za-z]{40}"),
        ("number with a subscript", r"\d[\s})\]]*_"),  # which math-verify would drop
        ("approximation", r"\\(?:approx|simeq|doteq)(?![a-z])"),
        ("digits apart", r"\d\s+\d"),  # `1 2`, which math-verify would add up
    )
)
_EXPONENT = re.compile(r"\^\s*[{(]*\s*-?(\d+)")


def refuse_hazard(text: str) -> None:
    """Raise Unparsable for normalised text known to burn seconds or gigabytes or to be misread.

    The message names the kind of hazard. This is only the cheap first line of defence: what slips
    through is stopped by the limits of the checking process.
    """
    _refuse_nesting(text)
    for name, hazard in _HAZARDS:
        if hazard.search(text):
            raise Unparsable(f"refused: {name}")
    power = math.prod(max(int(exponent), 1) for exponent in _EXPONENT.findall(text))
    if re.search(r"\^[^^]*[)}\]]\s*\^", text) and power > _MAX_POWER_OF_POWERS:
        raise Unparsable("refused: tower")  # ((9^{999})^{999})^{999}


def _refuse_nesting(text: str) -> None:
    depth = deepest = braces = 0
    for mark in re.findall(r"\\[{}]|[()\[\]{}]", text):
        depth += (mark in "({[") - (mark in ")}]")
        deepest = max(deepest, depth)
        braces += (mark == "{") - (mark == "}")
        if braces < 0:
            break
    if deepest > _MAX_NESTING:
        raise Unparsable("refused: nested")
    if braces:  # it could close the box that it is parsed in, and open another
        raise Unparsable("refused: unbalanced braces")


_WITHOUT_VARIABLES = r"\\(?:text\w*|math\w+|mbox|hbox|operatorname|begin|end)\s*\{[^{}]*\}"
_LETTER = re.compile(rf"(?:{_WITHOUT_VARIABLES})|(\\[A-Za-z]+|[A-Za-z])")
_SPARE_LETTERS = "abcfghjklmnpqrstuvwxyz"
"""Without e, i, d and o, which math-verify reads in ways of its own."""


def with_distinct_letters(*texts: str) -> list[str]:
    """Rename capitals that math-verify would take for the small letter beside them.

    A capital whose small letter also occurs gets a letter that occurs nowhere, the same in all
    texts: `\\frac{R}{r}` becomes `\\frac{a}{r}`. Raises Unparsable when no letter is left.
    """
    used = {name for text in texts for name in _LETTER.findall(text) if name}
    taken = {name.casefold() for name in used}
    spare = iter([letter for letter in _SPARE_LETTERS if letter not in taken])
    renamed: dict[str, str] = {}
    for name in sorted(used):
        small = name.lower()
        if small != name and small in used:
            renamed[name] = next(spare, "")
    if not all(renamed.values()):
        raise Unparsable("refused: too many letters")
    return [_LETTER.sub(lambda letter: _new_name(letter, renamed), text) for text in texts]


def _new_name(letter: re.Match[str], renamed: dict[str, str]) -> str:
    name = letter[1]
    if name is None or name not in renamed:
        return letter[0]
    return f" {renamed[name]} " if name.startswith("\\") else renamed[name]
