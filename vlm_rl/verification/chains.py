"""What a chain `x = 2 + 3 = 5` claims, and of what."""

import itertools
import re

from vlm_rl.verification import algebra
from vlm_rl.verification.grammar import Node
from vlm_rl.verification.quantities import Quantity
from vlm_rl.verification.values import Chain, Value


def results(gold: Value, given: Chain) -> tuple[Value, ...]:
    """Return what a chain claims, without what only names the number that the gold is.

    That is a sum of names, `m + n = 7`, or formulas that numbers are then put into,
    `S = \\pi r l = \\pi \\cdot 3 \\cdot 10 = 30\\pi`.
    """
    sides = given.sides
    if _is_formula(gold):
        return sides
    if given.name is None:
        return sides[1:] if len(sides) > 1 and _is_sum_of_names(sides[0]) else sides
    numbers = tuple(itertools.dropwhile(lambda side: _is_derivation(side, given.name), sides))
    return numbers if len(numbers) > 1 else sides


def _is_sum_of_names(value: Value) -> bool:
    terms = value.tree.args if isinstance(value, Quantity) and value.tree.op == "+" else ()
    return bool(terms) and all(term.op == "name" for term in terms) and len({*terms}) == len(terms)


def _is_derivation(value: Value, name: str | None) -> bool:
    """Return whether a value is a formula for what has this name, and not letters alone, which may
    be a word: `x = -x = 5` and `x = not = 5` say nothing."""
    if not isinstance(value, Quantity):
        return False
    ops = {part.op for part in value.tree.walk()} - {"name", "*"}
    return bool(ops) and _is_formula(value) and name not in algebra.names(value.tree)


def _is_formula(value: Value) -> bool:
    return isinstance(value, Quantity) and bool(algebra.names(value.tree))


def same_name(gold: str, given: str | None) -> bool:
    """Return whether two names are of one thing, as `y`, `f(x)`; `x`, `x_1`; `Volume`, `V`."""
    pair = " ".join(sorted((gold, given or "")))
    if given is None or gold == given or re.fullmatch(r"\w(\^\{-1\})?\(x\) y", pair):
        return given is not None
    angles = [re.fullmatch(r"m?\\angle([A-Z]{3})", name) for name in (gold, given)]
    if all(angles):
        a, b = (angle[1] for angle in angles if angle)
        return a in (b, b[::-1])
    word = gold.removeprefix("the").removeprefix("The")
    initial = word.isalpha() and len(word) > 3 and given.upper() == word[0].upper()
    shorter, longer = sorted((gold, given), key=len)
    return initial or (shorter == "x" and bool(re.fullmatch(r"x_\{?\d+\}?", longer)))


def difference(chain: Chain) -> Node | None:
    sides = [side for side in (chain.left, *chain.sides) if side is not None]
    quantities = [side for side in sides if isinstance(side, Quantity) and side.unit is None]
    return minus(*quantities) if len(quantities) == len(sides) == 2 else None


def minus(left: Quantity, right: Quantity) -> Node:
    return Node("+", (left.tree, Node("negative", (right.tree,))))
