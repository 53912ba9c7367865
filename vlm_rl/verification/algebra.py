"""Computer algebra behind one interface: math-verify in a checking process, absent elsewhere.

math-verify can run for hours on a short string, and its own time limits work in no thread and
disarm the caller's alarms. So it is asked without limits, and only where the process can be killed.
"""

import logging
import re
from fractions import Fraction
from typing import Any, Protocol

from vlm_rl.verification.gold import GoldUnparsable, Unparsable, reading_gold
from vlm_rl.verification.hazards import refuse_hazard
from vlm_rl.verification.letters import with_distinct_letters
from vlm_rl.verification.notation import TEXT_COMMAND, mathematics
from vlm_rl.verification.words import may_be_unit, takes_back

_DIGITS = 30
_BREAKS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError),
    ValueError,
)
"""What math-verify and sympy raise over mathematics that they have no method for."""
_AFTER_UNIT = re.compile(
    r"\s*(?:$|[^\w({\\]|\\[\\}]|\\(?:cup|cap|leq?|geq?|times|cdot|text|mathrm)(?![a-z]))"
)


class Algebra(Protocol):
    """What matchers may ask. Both raise Unparsable for a prediction that cannot be read."""

    def equal(self, gold: str, prediction: str) -> bool: ...

    def value(self, text: str) -> Fraction | None: ...


class NeedsAlgebra(Exception):
    """The question cannot be decided by string and exact arithmetic: ask a checking process."""


class NoAlgebra:
    """Stands in wherever a process may not be put at risk."""

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
        """Whether both are the same mathematical object; equality is not symmetric in
        math-verify, the gold comes first. Raises GoldUnparsable, Unparsable."""
        with reading_gold():
            gold = _readable(gold)
        gold, prediction = with_distinct_letters(gold, _readable(prediction))
        with reading_gold():
            expected = self._parse(gold)
        given = self._parse(prediction)
        try:
            return self._same(expected, given)
        except _BREAKS as failure:
            self._check_comparable(expected)
            raise Unparsable("not comparable") from failure

    def value(self, text: str) -> Fraction | None:
        """The real number that `text` comes to, None where it is no single real number."""
        expression = self._parse(*with_distinct_letters(_readable(text)))
        if not getattr(expression, "is_number", False):
            return None
        try:
            number = expression.evalf(_DIGITS)
        except _BREAKS as failure:
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
        except _BREAKS as failure:
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
        except _BREAKS as failure:
            raise GoldUnparsable("not comparable with itself") from failure


def _readable(text: str) -> str:
    """As mathematics, with no words that math-verify would drop together with what they say.

    It drops text commands. A unit at the end of a number may be dropped; all else is taken out of
    its command, to be read. Raises Unparsable for words that take the answer back, and hazards.
    """
    text, count = mathematics(text), 1
    while count:
        text, count = _open_commands(text)
    if takes_back(text):
        raise Unparsable("words beside the answer")
    refuse_hazard(text)
    return text


def _open_commands(text: str) -> tuple[str, int]:
    """The text with its innermost text commands opened that are no units, and how many."""
    parts, start, count = [], 0, 0
    for found in TEXT_COMMAND.finditer(text):
        if may_be_unit(found[1]) and _AFTER_UNIT.match(text, found.end()):
            continue
        parts += [text[start : found.start()], found[1]]
        start, count = found.end(), count + 1
    return "".join((*parts, text[start:])), count
