"""Whether an answer has the value of the gold, by the kind of the gold.

Symmetric but for what the gold alone decides: its type, its unit, its tolerance.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import TypeGuard, TypeVar

from vlm_rl.verification import algebra
from vlm_rl.verification.arithmetic import last_place
from vlm_rl.verification.gold import Gold
from vlm_rl.verification.grammar import ONE, Node, number
from vlm_rl.verification.quantities import Quantity
from vlm_rl.verification.regions import RealInterval, Region
from vlm_rl.verification.units import Unit, conversion, is_percent, unit_of
from vlm_rl.verification.values import (
    Chain,
    Collection,
    Proportion,
    Relation,
    Value,
    Words,
    as_region,
)

_DIGITS_OF_A_ROUNDING = 7
"""A decimal of so many digits that is a rounding of an exact value is that value; a gold has one
less, since its author knew the exact value."""
_GEOMETRIC = ("parallel", "perpendicular", "similar", "congruent")
_TURNED = {
    **{sign: sign for sign in ("=", "!=", *_GEOMETRIC)},
    **{"<": ">", ">": "<", "<=": ">=", ">=": "<="},
}
_ORDERED = ("list", "tuple", "choice")
_NUMBERS = ("number", "number_unit", "percent")
_PI = Node("constant", ("pi",))
_RADIAN = (("radian", Fraction(1)),)
_T = TypeVar("_T")


class Equality:
    """Compares values for one gold; `numeric` allows what needs more than exact arithmetic.

    `reason` says why values differ. Raises NeedsAlgebra if `numeric` is needed and not allowed,
    Unparsable for values that cannot be compared.
    """

    def __init__(self, gold: Gold, *, numeric: bool) -> None:
        self._type = gold.answer_type
        self._unit = unit_of(gold.unit) if gold.unit else None
        self._tolerance = gold.tolerance
        self._numeric = numeric
        self.reason = "another value"

    def same(self, gold: Value, given: Value) -> bool:
        """Return whether two values are equal."""
        gold, given = _alone(gold), _alone(given)
        match gold, given:
            case Chain(), Chain():
                return self._same_chain(gold, given)
            case Chain(), _:
                sides = gold.sides if gold.name is None else gold.sides[-1:]
                return all(self.same(side, given) for side in sides)
            case _, Chain():
                return not _is_system(gold) and (
                    all(self.same(gold, side) for side in _results(gold, given))
                    or (given.rounded is not None and self.same(gold, given.rounded))
                )
            case (Region(), Region()):
                return self._same_region(gold, given)
            case (Region(), _) | (_, Region()) if self._type not in ("list", "tuple"):
                return self._same_region(as_region(gold), as_region(given))
            case Collection(), _:
                return self._same_collection(gold, given)
            case (Proportion(), _) | (_, Proportion()) if self._type not in _NUMBERS:
                return self._same_ratio(_ratio(gold), _ratio(given))
            case Relation(), Relation():
                return self._same_relation(gold, given)
            case Quantity(), Quantity():
                return self._same_quantity(gold, given)
            case Quantity(Node("matrix", rows)), Collection():
                return self._same_rows(rows, given)
        return gold == given

    def _same_items(self, gold: Sequence[Value], given: Sequence[Value]) -> bool:
        if len(gold) != len(given):
            self.reason = "another number of members"
        return len(gold) == len(given) and all(map(self.same, gold, given))

    def _same_quantity(self, gold: Quantity, given: Quantity) -> bool:
        gold, given = _in_one_angle(gold, given), _in_one_angle(given, gold)
        factors = self._factors(gold, given.unit)
        if (gold.unit is None) != (given.unit is None) and _PI in gold.tree.walk():
            angle = unit_of("°") in (gold.unit, given.unit)
            factors = [] if angle else factors  # pi / 6 are radians
        if not factors:
            self.reason = "another unit"
        return any(self._same_tree(gold.tree, _times(given.tree, factor)) for factor in factors)

    def _factors(self, gold: Quantity, unit: Unit | None) -> list[Fraction]:
        """Return what may turn a number in `unit` into one in the gold's unit.

        Where one side has a percent sign and the other no unit, 50 % is 0.5. A gold of 50 % takes
        50, too, unless it is of type number; a gold of 50 takes 50 % if it is of type percent.
        """
        expected = self._unit if gold.unit is None else gold.unit
        if self._type == "percent" and unit is not None and not is_percent(unit):
            return []
        if is_percent(expected) == is_percent(unit):
            factor = conversion(expected, unit)
            return [] if factor is None else [factor]
        if None not in (expected, unit):
            return []
        if unit is None:
            return [Fraction(100)] if self._type == "number" else [Fraction(1), Fraction(100)]
        same = self._type == "percent" and abs(algebra.exact(gold.tree) or Fraction(2)) >= 1
        return [Fraction(1) if same else Fraction(1, 100)]

    def _same_tree(self, gold: Node, given: Node) -> bool:
        close = self._near(gold, given) if self._tolerance else self._rounded(gold, given)
        return algebra.equal(gold, given, numeric=self._numeric) if close is None else close

    def _near(self, gold: Node, given: Node) -> bool | None:
        """Compare two numbers within the tolerance; None for formulas."""
        if algebra.names(gold) or algebra.names(given):
            return None
        a, b = self._number(gold), self._number(given)
        if a is None or b is None:
            return False
        return all(_within(a, b, rule, size) for rule, size in self._tolerance)

    def _rounded(self, gold: Node, given: Node) -> bool | None:
        """Compare a decimal of many digits with what it may be a rounding of."""
        least = _DIGITS_OF_A_ROUNDING
        sides = [(_digits(a), a, b) for a, b in ((gold, given), (given, gold))]
        decimals = [side for side in sides if side[0] >= least - (side[1] is gold)]
        if not decimals or algebra.names(gold) or algebra.names(given):
            return None
        digits, decimal, other = min(decimals, key=lambda side: side[0])
        value, rounding = self._number(other), algebra.exact(decimal)
        if value is None or rounding is None:
            return None
        return 2 * abs(value - rounding) <= last_place(rounding, digits)

    def _number(self, tree: Node) -> Fraction | None:
        return algebra.value(tree, numeric=self._numeric)

    def _same_chain(self, gold: Chain, given: Chain) -> bool:
        """Compare all that is claimed of the same name, else two equations."""
        named = gold.name is not None and _same_name(gold.name, given.name)
        if named and all(self.same(gold.sides[-1], side) for side in given.sides):
            return True
        if named and self._same_items(gold.sides, given.sides):
            return True
        if named and given.rounded is not None and self.same(gold.sides[-1], given.rounded):
            return True
        a, b = _difference(gold), _difference(given)
        if a is None or b is None:
            return False
        return algebra.proportional(a, b, numeric=self._numeric) != 0

    def _same_relation(self, gold: Relation, given: Relation) -> bool:
        turned = Relation(tuple(_TURNED[s] for s in given.signs[::-1]), given.sides[::-1])
        for signs, sides in (given, turned):
            if gold.signs == signs and all(map(self._same_quantity, gold.sides, sides)):
                return True
        if len(gold.signs) > 1 or len(given.signs) > 1 or gold.signs[0] in _GEOMETRIC:
            return False
        differences = _minus(*gold.sides), _minus(*given.sides)
        sign = algebra.proportional(*differences, numeric=self._numeric, cleared=False)
        return sign != 0 and gold.signs == (given if sign > 0 else turned).signs

    def _same_region(self, gold: Region | None, given: Region | None) -> bool:
        if gold is None or given is None or (gold.name and given.name not in (None, gold.name)):
            return False
        if _matched(gold.parts, given.parts, self._same_interval):
            return True
        if len(gold.parts) == len(given.parts) == 1 or given.offered:
            return False
        return all(map(self._has_numbers, (*gold.parts, *given.parts))) and _matched(
            gold.merged().parts, given.merged().parts, self._same_interval
        )

    def _has_numbers(self, part: RealInterval) -> bool:
        return all(end is None or self._number(end.tree) is not None for end in part[::2])

    def _same_interval(self, gold: RealInterval, given: RealInterval) -> bool:
        shapes = [
            (i.low_closed, i.low is None, i.high_closed, i.high is None) for i in (gold, given)
        ]
        ends = ((gold.low, given.low), (gold.high, given.high))
        return shapes[0] == shapes[1] and all(self._same_quantity(a, b) for a, b in ends if a and b)

    def _same_collection(self, gold: Collection, given: Value) -> bool:
        if _is_system(gold) and _is_system(given):
            return _matched(gold.items, given.items, self.same)
        if isinstance(given, Collection) and _is_system(gold) and _variables(given):
            return False
        gold = _as_point(gold) if isinstance(given, Collection) else gold
        ordered = gold.bracket in ("(", "[", "mod") or (
            not gold.bracket and (self._type in _ORDERED or _is_mixed(gold))
        )
        if not isinstance(given, Collection):
            return not ordered and self._same_members(_members(gold), [given])
        given = _as_point(given) if ordered else given
        brackets = ((gold.bracket,) if gold.bracket else ("(", "[")) if ordered else ("{",)
        if given.bracket not in ("", *brackets):
            self.reason = "other brackets"
            return False
        if ordered:
            return self._same_items(gold.items, given.items)
        names = [_variables(side) for side in (gold, given)]
        points = all(_is_point(item) for item in given.items)
        mixed = len(names[1]) > 1 and not points
        if mixed or (names[0] and names[1] and names[0] != names[1]):
            return False
        return self._same_members(
            _members(gold), _members(given), multiset=gold.bracket == given.bracket == ""
        )

    def _same_members(
        self, gold: Sequence[Value], given: Sequence[Value], *, multiset: bool = False
    ) -> bool:
        if multiset:
            return _matched(gold, given, self._safely)
        return all(any(self._safely(g, p) for p in given) for g in gold) and all(
            any(self._safely(g, p) for g in gold) for p in given
        )

    def _safely(self, gold: Value, given: Value) -> bool:
        try:
            return self.same(gold, given)
        except algebra.NotComparable:
            return False

    def _same_ratio(self, gold: list[Node], given: list[Node]) -> bool:
        """Compare which parts are zero, and the cross products of all pairs."""
        zeros = [[algebra.exact(part) == 0 for part in side] for side in (gold, given)]
        pairs = itertools.combinations(zip(gold, given, strict=False), 2)
        return (
            len(gold) > 1
            and zeros[0] == zeros[1]
            and all(
                algebra.equal(_product(a, d), _product(b, c), numeric=self._numeric)
                for (a, b), (c, d) in pairs
            )
        )

    def _same_rows(self, gold: Iterable[Sequence[Node]], given: Collection) -> bool:
        """Compare a matrix with `[[1, 2], [3, 4]]`, a row or a column with `(1, 2)`."""
        cells = [[Quantity(cell) for cell in row] for row in gold]
        rows = [row.items if isinstance(row, Collection) else (row,) for row in given.items]
        if len(cells) == 1 != len(rows):
            cells = [[cell] for cell in cells[0]]
        return len(cells) == len(rows) and all(map(self._same_items, cells, rows))


def _in_one_angle(angle: Quantity, other: Quantity) -> Quantity:
    """Turn radians that are called so into degrees beside degrees."""
    degree = unit_of("°")
    if other.unit != degree or angle.unit is None or angle.unit.powers != _RADIAN:
        return angle
    return Quantity(Node("/", (_times(angle.tree, Fraction(180)), _PI)), degree)


def _alone(value: Value) -> Value:
    """Return the member of a set of one, and `\\pm a` as a set."""
    while isinstance(value, Collection) and value.bracket == "{" and len(value.items) == 1:
        if _is_set(value.items[0]):
            break  # the set of the empty set is not empty
        (value,) = value.items
    both = _signed(value)
    return Collection("{", tuple(both)) if len(both) > 1 else value


def _results(gold: Value, given: Chain) -> tuple[Value, ...]:
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


def _is_set(value: Value) -> bool:
    condition = isinstance(value, Region) and value.condition
    return not condition and (
        isinstance(value, Region) or (isinstance(value, Collection) and value.bracket == "{")
    )


def _signed(value: Value) -> list[Value]:
    """Return both values of `\\pm a`, and any other value alone."""
    if isinstance(value, Collection) and value.bracket == "(":
        rows = [*map(_signed, value.items)]
        both = range(max(map(len, rows), default=1))
        return [value._replace(items=tuple(row[i % len(row)] for row in rows)) for i in both]
    if not isinstance(value, Quantity):
        return [value]
    return [value._replace(tree=tree) for tree in algebra.signs(value.tree)]


def _members(value: Collection) -> list[Value]:
    """Return what a set lists: `\\pm a` as two, `x = 1, x = 2` without its one name."""
    named = len(_variables(value)) == 1 or all(map(_is_point, value.items))
    items = _sides(value.items) if named else value.items
    return [member for item in items for member in _signed(item)]


def _variables(value: Value) -> set[str]:
    """Return the names that all members have. A solver may number the roots of x in any order."""
    items = value.items if isinstance(value, Collection) else ()
    names = [item.name for item in items if isinstance(item, Chain) and item.name is not None]
    if len(names) < len(items):
        return set()
    return {re.sub(r"^x_\{?\d+\}?$", "x", name) for name in names}


def _is_system(value: Value) -> TypeGuard[Collection]:
    """Return whether a value gives each of several names its value: `x=1, y=2`."""
    return len(_variables(value)) > 1


def _is_point(value: Value) -> bool:
    """Return whether a value is a point with its name."""
    return isinstance(value, Chain) and isinstance(value.sides[0], Collection)


def _as_point(value: Collection) -> Collection:
    """Read `y=2, x=1` as `(1, 2)`, in the order of the alphabet."""
    if not _is_system(value):
        return value
    chains = [item for item in value.items if isinstance(item, Chain)]
    chains.sort(key=lambda chain: chain.name or "")
    return Collection("(", _sides(chains))


def _sides(items: Iterable[Value]) -> tuple[Value, ...]:
    """Return what is said of each name: one value, or a chain of equal ones."""
    return tuple(
        item.sides[0] if len(item.sides) == 1 else item._replace(name=None, left=None)
        for item in items
        if isinstance(item, Chain)
    )


def _is_mixed(value: Collection) -> bool:
    """Return whether a list has words and numbers: the answers to several questions, in order."""
    words = [isinstance(item, Words) for item in value.items]
    return any(words) and not all(words)


def _is_formula(value: Value) -> bool:
    return isinstance(value, Quantity) and bool(algebra.names(value.tree))


def _same_name(gold: str, given: str | None) -> bool:
    """Return whether two names are of one thing, as `y`, `f(x)`; `x`, `x_1`; `Volume`, `V`."""
    if given is None or gold == given or {gold, given} == {"y", "f(x)"}:
        return given is not None
    angles = [re.fullmatch(r"m?\\angle([A-Z]{3})", name) for name in (gold, given)]
    if all(angles):
        a, b = (angle[1] for angle in angles if angle)
        return a in (b, b[::-1])
    word = gold.removeprefix("the").removeprefix("The")
    initial = word.isalpha() and len(word) > 3 and given.upper() == word[0].upper()
    shorter, longer = sorted((gold, given), key=len)
    return initial or (shorter == "x" and bool(re.fullmatch(r"x_\{?\d+\}?", longer)))


def _difference(chain: Chain) -> Node | None:
    sides = [side for side in (chain.left, *chain.sides) if side is not None]
    quantities = [side for side in sides if isinstance(side, Quantity) and side.unit is None]
    return _minus(*quantities) if len(quantities) == len(sides) == 2 else None


def _ratio(value: Value) -> list[Node]:
    """Return the parts of a ratio in one unit, or of a fraction; empty for others.

    A decimal is a number.
    """
    if isinstance(value, Quantity) and value.unit is None and not _digits(value.tree):
        return list(value.tree.args) if value.tree.op == "/" else [value.tree, ONE]
    parts = value.parts if isinstance(value, Proportion) else ()
    factors = [conversion(parts[0].unit, part.unit) or Fraction(0) for part in parts]
    trees = [_times(part.tree, factor) for part, factor in zip(parts, factors, strict=True)]
    alike = len({part.unit is None for part in parts}) < 2
    return trees if alike and all(factors) else []


def _minus(left: Quantity, right: Quantity) -> Node:
    return Node("+", (left.tree, Node("negative", (right.tree,))))


def _product(a: Node, b: Node) -> Node:
    return Node("*", (a, b))


def _times(tree: Node, factor: Fraction) -> Node:
    return tree if factor == 1 else _product(tree, number(factor))


def _within(gold: Fraction, given: Fraction, rule: str, size: float) -> bool:
    if rule == "decimals":
        halves = (Fraction(0), Fraction(1, 10 ** (int(size) + 9)))  # 0.125 is 0.12 and 0.13
        return any(round(gold + h, int(size)) == round(given, int(size)) for h in halves)
    return abs(gold - given) <= Fraction(str(size)) * (abs(gold) if rule == "rel" else 1)


def _digits(tree: Node) -> int:
    """Return the digits of a decimal, 0 for other expressions."""
    if tree.op == "negative":
        return _digits(tree.args[0])
    return (tree.args[1] or 0) if tree.op == "number" else 0


def _matched(gold: Sequence[_T], given: Sequence[_T], same: Callable[[_T, _T], bool]) -> bool:
    """Return whether each of one side has its own equal on the other."""
    left = list(given)
    for part in gold:
        equal = next((index for index, other in enumerate(left) if same(part, other)), None)
        if equal is None:
            return False
        del left[equal]
    return not left
