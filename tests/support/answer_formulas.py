"""Expressions and equations as answers, spelled in many ways."""

import random
import re
from fractions import Fraction

from tests.support.answer_numbers import Base, Core, plain_text
from vlm_rl.verification.gold import Gold

Term = tuple[Fraction, tuple[str, ...]]
"""A coefficient and the factors of a monomial."""

COMMON_INJURIES = ("not", "taken back", "alternative", "second value")


def table(kind: str, answer_type: str, gold: str, same: str, other: str, **more) -> Base:
    """Return a base from texts separated by `;`."""
    return Base(
        kind,
        Gold(gold, answer_type),
        tuple(Core("as written", text.strip()) for text in [gold, *same.split(";")]),
        tuple(Core("as written", text.strip()) for text in other.split(";")),
        **{"injuries": COMMON_INJURIES, **more},
    )


def glue(factors: list[str], mark: str) -> str:
    """Join factors; a command is parted from a letter that follows it."""
    text = ""
    for factor in factors:
        command = re.search(r"\\[A-Za-z]+$", text) and factor[0].isalpha()
        text += (mark if text else "") + (" " if command and mark == "" else "") + factor
    return text


def spell_term(coefficient: Fraction, factors: tuple[str, ...], rng: random.Random) -> str:
    """Return a monomial without its sign, letters before functions."""
    letters = [f for f in factors if not re.match(r"\\sin|\\cos|\\tan|e\^|\|", f)]
    functions = sorted(
        (f for f in factors if f not in letters), key=lambda f: f[:2] in ("\\s", "\\c")
    )
    rng.shuffle(letters)
    a, b = abs(coefficient.numerator), coefficient.denominator
    if not factors:
        return plain_text(abs(coefficient))
    if factors[0] == "^\\circ":
        return str(a) + rng.choice([r"^\circ", "°", r"^{\circ}"])
    product = glue(letters + functions, rng.choice(["", "", " ", r"\cdot "]))
    if b == 1:
        return product if a == 1 else str(a) + rng.choice(["", "", " ", r"\cdot "]) + product
    top = "" if a == 1 else str(a)
    return rng.choice([rf"\frac{{{top}{product}}}{{{b}}}", rf"\frac{{{a}}}{{{b}}}{product}"])


def spell_sum(terms: list[Term], rng: random.Random) -> str:
    """Return a sum in any order of terms and factors."""
    text = ""
    for coefficient, factors in rng.sample(terms, len(terms)):
        sign = "-" if coefficient < 0 else "+" if text else ""
        text += sign + spell_term(coefficient, factors, rng)
    return text


def written(terms: list[Term]) -> str:
    """Return a sum in the given order, as a textbook writes it."""
    text = ""
    for coefficient, factors in terms:
        a, b = abs(coefficient.numerator), coefficient.denominator
        product = glue(list(factors), "")
        number = "" if a == b == 1 and product else plain_text(abs(coefficient))
        if b > 1:
            number = rf"\frac{{{a}}}{{{b}}}"
        text += ("-" if coefficient < 0 else "+" if text else "") + number + product
    return text


def other_sums(terms: list[Term], rng: random.Random) -> list[tuple[str, list[Term]]]:
    """Return sums with one thing changed; monomials that differ make the sums differ."""
    others = []
    for index, (coefficient, factors) in enumerate(terms):
        rest = terms[:index] + terms[index + 1 :]
        others.append(("sign", [*rest, (-coefficient, factors)]))
        others.append(("coefficient", [*rest, (coefficient + 1 or Fraction(5), factors)]))
        if rest:
            others.append(("dropped term", rest))
        if factors == ("^\\circ",):
            continue
        for place, factor in enumerate(factors):
            fewer = factors[:place] + factors[place + 1 :]
            others.append(("dropped factor", [*rest, (coefficient, fewer)]))
            letter = re.fullmatch(r"([A-Za-z]|\\[a-z]+)((?:\^\d)?)", factor)
            if letter:
                new = rng.choice([c for c in "uwzk" if c not in str(terms)])
                new += letter[2]
                changed = (*factors[:place], new, *factors[place + 1 :])
                others.append(("exchanged letter", [*rest, (coefficient, changed)]))
    return others


def expression(terms: str, rng: random.Random, names: str = "", also: str = "") -> Base:
    """Return a sum of `coefficient factor factor` terms; `also` has other forms of it."""
    parsed = []
    for term in terms.split(" + "):
        coefficient, *factors = term.split("~")
        parsed.append((Fraction(coefficient), tuple(factors)))
    spelled = sorted({spell_sum(parsed, rng) for _ in range(25)})
    ordered = written(parsed)
    same = [Core("order of terms and factors", text) for text in [ordered, *spelled]]
    same += [Core("another form", text) for text in also.split(";") if text]
    other = [
        Core(move, spell_sum(changed, rng))
        for move, changed in other_sums(parsed, rng)
        for _ in "ab"
    ]
    injuries = (*COMMON_INJURIES, "tiny")
    prefixes = tuple(names.split(";")) if names else ()
    gold = Gold(ordered, "expression")
    return Base("expression", gold, tuple(same), tuple(other), prefixes, (), injuries)


def line(slope: int, intercept: int) -> Base:
    """Return the equation of a straight line."""

    def spell(m: int, b: int) -> list[str]:
        mx = {1: "x", -1: "-x"}.get(m, f"{m}x")
        plus = f"{b:+d}"
        return [
            f"y={mx}{plus}",
            f"{mx}{plus}=y",
            f"y={b}{'+' if m > 0 else ''}{mx}",
            f"{mx}-y{plus}=0",
            f"y{-b:+d}={mx}",
            f"y{'-' if m > 0 else '+'}{mx.lstrip('-')}={b}",
            f"2y={2 * m}x{2 * b:+d}",
        ]

    others = {
        "slope": (slope + 1 or 5, intercept),
        "constant": (slope, intercept + 1),
        "sign": (-slope, intercept),
        "sign of the constant": (slope, -intercept),
    }
    same = tuple(Core("equation", text) for text in spell(slope, intercept))
    other = tuple(Core(move, text) for move, (m, b) in others.items() for text in spell(m, b))
    gold = Gold(spell(slope, intercept)[0], "latex")
    return Base("equation", gold, same, other, injuries=COMMON_INJURIES)
