"""Computer algebra behind one interface: math-verify in a checking process, absent elsewhere.

math-verify can run for hours on a short string, and its own time limits work in no thread and
disarm the caller's alarms. So it is asked without limits, and only where the process can be killed.
"""

import logging
from fractions import Fraction
from typing import Any, Protocol

from vlm_rl.verification.gold import Unparsable, reading_gold
from vlm_rl.verification.hazards import refuse_hazard
from vlm_rl.verification.notation import mathematics

_DIGITS = 30


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
            expected = self._parse(gold)
        return bool(
            self._math_verify.verify(
                expected, self._parse(prediction), timeout_seconds=None, raise_on_error=True
            )
        )

    def value(self, text: str) -> Fraction | None:
        """The real number that `text` comes to, None where it is no single real number."""
        expression = self._parse(text)
        if not getattr(expression, "is_number", False):
            return None
        number = expression.evalf(_DIGITS)
        if not (number.is_Float or number.is_Rational):
            return None
        value = Fraction(str(number))
        nearest = round(value)
        # thirty digits of log_2 8 are 3 up to the last of them
        return Fraction(nearest) if abs(value - nearest) < Fraction(1, 10**20) else value

    def _parse(self, text: str) -> Any:
        text = mathematics(text)
        refuse_hazard(text)
        parsed = self._math_verify.parse(
            rf"\boxed{{{text}}}",
            [self._config],
            fallback_mode="no_fallback",
            extraction_mode="first_match",
            parsing_timeout=None,
        )
        if not parsed:
            raise Unparsable("not read as mathematics")
        return parsed[0]
