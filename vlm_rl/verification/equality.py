"""Whether an answer has the value of the gold, by the kind of the gold.

Symmetric but for what the gold alone decides: its type, its unit, its tolerance.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import TypeVar

from vlm_rl.verification import algebra
from vlm_rl.verification.arithmetic import last_place
from vlm_rl.verification.chains import difference, minus, results, same_name
from vlm_rl.verification.gold import Gold
from vlm_rl.verification.grammar import ONE, Node, number
from vlm_rl.verification.members import (
    alone,
    along_axes,
    as_point,
    is_mixed,
    is_point,
    is_set,
    is_system,
    members,
    variables,
)
from vlm_rl.verification.quantities import Quantity
from vlm_rl.verification.regions import RealInterval, Region
from vlm_rl.verification.units import Unit, conversion, is_percent, unit_of
from vlm_rl.verification.values import (
    Chain,
    Collection,
    Proportion,
    Relation,
    Value,
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
        gold, given = alone(gold), alone(given)
        if vectors := along_axes(gold, given) or along_axes(given, gold):
            return algebra.equal(*vectors, numeric=self._numeric)
        match gold, given:
            case Chain(), Chain():
                return self._same_chain(gold, given)
            case Quantity(), Chain("C", _, (Collection("(", (Quantity(n), Quantity(k))),)):
                return self._same_quantity(gold, Quantity(Node("binomial", (n, k))))
            case Chain(), _:
                sides = gold.sides if gold.name is None else gold.sides[-1:]
                return all(self.same(side, given) for side in sides)
            case _, Chain():
                return not is_system(gold) and (
                    all(self.same(gold, side) for side in results(gold, given))
                    or (given.rounded is not None and self.same(gold, given.rounded))
                )
            case (Region(), Region()):
                return self._same_region(gold, given)
            case (Region(), _) | (_, Region()) if self._type not in ("list", "tuple"):
                return self._same_region(as_region(gold), as_region(given))
            case Quantity(Node("matrix", rows)), Collection():
                return self._same_rows(rows, given)
            case Collection("("), Quantity(Node("matrix", rows)):
                return self._same_rows(rows, gold)
            case Collection(), _:
                return self._same_collection(gold, given)
            case (Proportion(), _) | (_, Proportion()) if self._type not in _NUMBERS:
                return self._same_ratio(_ratio(gold), _ratio(given))
            case Relation(), Relation():
                return self._same_relation(gold, given)
            case Quantity(), Quantity():
                return self._same_quantity(gold, given)
        return gold == given

    def _same_items(self, gold: Sequence[Value], given: Sequence[Value]) -> bool:
        if len(gold) != len(given):
            self.reason = "another number of members"
        return len(gold) == len(given) and all(map(self._safely, gold, given))

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
        named = gold.name is not None and same_name(gold.name, given.name)
        if named and all(self.same(gold.sides[-1], side) for side in given.sides):
            return True
        if named and self._same_items(gold.sides, given.sides):
            return True
        if named and given.rounded is not None and self.same(gold.sides[-1], given.rounded):
            return True
        a, b = difference(gold), difference(given)
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
        differences = minus(*gold.sides), minus(*given.sides)
        sign = algebra.proportional(*differences, numeric=self._numeric, cleared=False)
        return sign != 0 and gold.signs == (given if sign > 0 else turned).signs

    def _same_region(self, gold: Region | None, given: Region | None) -> bool:
        if gold is None or given is None or (gold.name and given.name not in (None, gold.name)):
            return False
        if _matched(gold.parts, given.parts, self._same_interval):
            return True
        if len(gold.parts) == len(given.parts) == 1 or given.offered:
            return False
        ends = [end for part in (*gold.parts, *given.parts) for end in (part.low, part.high) if end]
        return all(self._number(end.tree) is not None for end in ends) and _matched(
            gold.merged().parts, given.merged().parts, self._same_interval
        )

    def _same_interval(self, gold: RealInterval, given: RealInterval) -> bool:
        shapes = [
            (i.low_closed, i.low is None, i.high_closed, i.high is None) for i in (gold, given)
        ]
        ends = ((gold.low, given.low), (gold.high, given.high))
        return shapes[0] == shapes[1] and all(self._same_quantity(a, b) for a, b in ends if a and b)

    def _same_collection(self, gold: Collection, given: Value) -> bool:
        if is_system(gold) and is_system(given):
            return _matched(gold.items, given.items, self.same)
        if isinstance(given, Collection) and is_system(gold) and variables(given):
            return False
        gold = as_point(gold) if isinstance(given, Collection) else gold
        ordered = gold.bracket in ("(", "[", "mod") or (
            not gold.bracket and (self._type in _ORDERED or is_mixed(gold))
        )
        if not isinstance(given, Collection):
            return not ordered and self._same_members(members(gold), [given])
        given = as_point(given) if ordered else given
        brackets = ((gold.bracket,) if gold.bracket else ("(", "[")) if ordered else ("{",)
        if given.bracket not in ("", *brackets):
            self.reason = "other brackets"
            return False
        if ordered:
            return self._same_items(gold.items, given.items)
        names = [variables(side) for side in (gold, given)]
        points = all(is_point(item) for item in given.items)
        mixed = len(names[1]) > 1 and not points
        if mixed or (names[0] and names[1] and names[0] != names[1]):
            return False
        return self._same_members(
            members(gold), members(given), multiset=gold.bracket == given.bracket == ""
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
        """Compare two members, of which `{1}` is another than 1."""
        if is_set(gold) != is_set(given) and Quantity in (type(gold), type(given)):
            return False
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
                algebra.equal(Node("*", (a, d)), Node("*", (b, c)), numeric=self._numeric)
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


def _times(tree: Node, factor: Fraction) -> Node:
    return tree if factor == 1 else Node("*", (tree, number(factor)))


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
