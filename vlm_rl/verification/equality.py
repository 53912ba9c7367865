"""Whether an answer has the value of the gold, by the kind of the gold.

Symmetric but for what the gold alone decides: its type, its unit, its tolerance.
"""

import itertools
import re
from collections.abc import Sequence
from fractions import Fraction

from vlm_rl.verification import algebra
from vlm_rl.verification.gold import Gold
from vlm_rl.verification.grammar import Node
from vlm_rl.verification.reading import (
    Chain,
    Collection,
    Proportion,
    Quantity,
    Relation,
    Value,
    Words,
    as_region,
)
from vlm_rl.verification.regions import RealInterval, Region
from vlm_rl.verification.units import Unit, conversion, is_percent, unit_of

_DIGITS_OF_A_ROUNDING = 7
"""A decimal of so many digits that is a rounding of an exact value is that value."""
_ORDERED = ("list", "tuple")
_GEOMETRIC = ("parallel", "perpendicular", "similar", "congruent")
_TURNED = {
    **{sign: sign for sign in _GEOMETRIC},
    **{"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="},
}


class Equality:
    """Compares values for one gold; `numeric` allows what needs more than exact arithmetic.

    Raises NeedsAlgebra if that is not allowed, Unparsable for values that cannot be compared.
    """

    def __init__(self, gold: Gold, *, numeric: bool) -> None:
        self._percent = gold.answer_type == "percent"
        self._number_only = gold.answer_type == "number"
        self._ordered = gold.answer_type in _ORDERED
        self._interval = gold.answer_type == "interval"
        self._ratio = gold.answer_type == "ratio"
        self._unit = unit_of(gold.unit) if gold.unit else None
        self._tolerance = gold.tolerance
        self._numeric = numeric
        self.reason = "another value"

    def same(self, gold: Value, given: Value) -> bool:
        """Return whether two values are equal."""
        if isinstance(gold, Chain) or isinstance(given, Chain):
            return self._same_chain(gold, given)
        if isinstance(gold, Collection) and len(gold.items) == 1 and gold.bracket == "{":
            return self.same(gold.items[0], given if not _is_single(given) else given.items[0])
        if _is_single(given) and not isinstance(gold, Collection):
            return self.same(gold, given.items[0])
        if isinstance(gold, Region) or isinstance(given, Region):
            return self._same_region(gold, given)
        if _members_by_sign(gold) or _members_by_sign(given):
            return self._same_members(_members(gold), _members(given))
        if isinstance(gold, Collection):
            return self._same_collection(gold, given)
        if isinstance(gold, Proportion) or isinstance(given, Proportion):
            return self._same_ratio(gold, given)
        if isinstance(gold, Relation):
            return isinstance(given, Relation) and self._same_relation(gold, given)
        if isinstance(gold, Words):
            return gold == given
        if isinstance(given, Collection) and gold.tree.op == "matrix":
            return self._same_rows(gold, given)
        return isinstance(given, Quantity) and self._same_quantity(gold, given)

    def _same_quantity(self, gold: Quantity, given: Quantity) -> bool:
        unit = self._unit if gold.unit is None else gold.unit
        if is_percent(unit) or is_percent(given.unit):
            return self._same_percent(gold.tree, unit, given)
        factor = conversion(unit, given.unit)
        if factor is None:
            self.reason = "another unit"
            return False
        tree = given.tree if factor == 1 else Node("*", (given.tree, _exact(factor)))
        return self._same_tree(gold.tree, tree)

    def _same_percent(self, gold: Node, unit: Unit | None, given: Quantity) -> bool:
        """Compare 50 %, 50 and 0.5 with a gold of 50 %; a gold of 50 takes no 0.5."""
        hundredth = Node("/", (given.tree, _exact(Fraction(100))))
        hundredfold = Node("*", (given.tree, _exact(Fraction(100))))
        if is_percent(unit) and self._number_only:
            gold, unit = Node("/", (gold, _exact(Fraction(100)))), None
            if given.unit is None:
                return self._same_tree(gold, given.tree)
        if is_percent(unit) and is_percent(given.unit):
            return self._same_tree(gold, given.tree)
        if is_percent(unit):
            return given.unit is None and (
                self._same_tree(gold, given.tree) or self._same_tree(gold, hundredfold)
            )
        if unit is not None:
            return False
        return self._same_tree(gold, hundredth) or (
            self._percent and not self._is_fraction(gold) and self._same_tree(gold, given.tree)
        )

    def _is_fraction(self, gold: Node) -> bool:
        value = algebra.exact(gold)
        return value is not None and abs(value) <= 1

    def _same_tree(self, gold: Node, given: Node) -> bool:
        if self._tolerance:
            return self._near(gold, given)
        if rounding := self._rounded(gold, given):
            return rounding == "right"
        return algebra.equal(gold, given, numeric=self._numeric)

    def _near(self, gold: Node, given: Node) -> bool:
        if algebra.names(gold) or algebra.names(given):
            return algebra.equal(gold, given, numeric=self._numeric)
        values = [self._number(tree) for tree in (gold, given)]
        if values[0] is None or values[1] is None:
            return False
        return all(_within(*values, rule, size) for rule, size in self._tolerance)

    def _number(self, tree: Node) -> Fraction | None:
        value = algebra.exact(tree)
        if value is None:
            if not self._numeric:
                raise algebra.NeedsAlgebra
            value = algebra.approximate(tree)
        return value

    def _rounded(self, gold: Node, given: Node) -> str:
        """Compare a decimal of seven or more digits with a value that it may be a rounding of."""
        decimals = [tree for tree in (gold, given) if _digits(tree) >= _DIGITS_OF_A_ROUNDING]
        if not decimals or algebra.names(gold) or algebra.names(given):
            return ""
        shorter = min(decimals, key=_digits)
        other = given if shorter is gold else gold
        value, number = self._number(other), algebra.exact(shorter)
        if value is None or number is None or value == number:
            return "" if value is None else "right"
        step = _last_place(number, _digits(shorter))
        return "right" if abs(value - number) < step else "other"

    def _same_chain(self, gold: Value, given: Value) -> bool:
        """Compare what is claimed: every side must be right, the names must not differ."""
        if isinstance(gold, Chain) and isinstance(given, Chain):
            if gold.name is not None and _variable(gold.name) == _variable(given.name):
                return self._all_same(gold.sides[-1], given.sides) or self._same_equation(
                    gold, given
                )
            return self._same_equation(gold, given)
        if isinstance(gold, Chain):
            if gold.name is None:
                return False
            return self.same(gold.sides[-1], given)
        if isinstance(gold, Collection) and self._is_system(gold):
            return False
        return isinstance(given, Chain) and self._all_same(gold, _claims(gold, given))

    def _all_same(self, gold: Value, sides: Sequence[Value]) -> bool:
        return all(self.same(gold, side) for side in sides)

    def _same_equation(self, gold: Chain, given: Chain) -> bool:
        differences = [_difference(chain) for chain in (gold, given)]
        if differences[0] is None or differences[1] is None:
            return False
        return algebra.proportional(*differences, numeric=self._numeric) != 0

    def _same_relation(self, gold: Relation, given: Relation) -> bool:
        for signs, sides in (given, _turned(given)):
            if gold.signs == signs and all(
                self._same_quantity(a, b) for a, b in zip(gold.sides, sides, strict=True)
            ):
                return True
        if len(gold.signs) > 1 or len(given.signs) > 1 or gold.signs[0] in _GEOMETRIC:
            return False
        differences = [_minus(*relation.sides) for relation in (gold, given)]
        sign = algebra.proportional(*differences, numeric=self._numeric)
        expected = given.signs if sign > 0 else _turned(given)[0]
        return sign != 0 and gold.signs == expected

    def _same_region(self, gold: Value, given: Value) -> bool:
        expected, offered = as_region(gold), as_region(given)
        if expected is None or offered is None:
            return False
        if None not in (expected.name, offered.name) and expected.name != offered.name:
            return False
        if self._same_parts(expected, offered):
            return True
        if len(expected.parts) == len(offered.parts) == 1 or offered.offered:
            return False
        if not all(self._has_numbers(region) for region in (expected, offered)):
            return False
        return self._same_parts(expected.merged(), offered.merged())

    def _has_numbers(self, region: Region) -> bool:
        ends = [end for part in region.parts for end in (part.low, part.high) if end is not None]
        return all(self._number(end.tree) is not None for end in ends)

    def _same_parts(self, gold: Region, given: Region) -> bool:
        return _matched(gold.parts, given.parts, self._same_interval)

    def _same_interval(self, gold: RealInterval, given: RealInterval) -> bool:
        if (gold.low_closed, gold.high_closed) != (given.low_closed, given.high_closed):
            return False
        pairs = ((gold.low, given.low), (gold.high, given.high))
        return all((a is None) == (b is None) for a, b in pairs) and all(
            a is None or self._same_quantity(a, b) for a, b in pairs
        )

    def _same_collection(self, gold: Collection, given: Value) -> bool:
        if self._is_system(gold) and isinstance(given, Collection):
            return self._same_system(gold, given)
        ordered = gold.bracket in ("(", "[") or (self._ordered and gold.bracket == "")
        if isinstance(given, Quantity) and not ordered:
            return self._same_members(_members(gold), [given])
        if not isinstance(given, Collection):
            return False
        if ordered:
            brackets = {gold.bracket, given.bracket}
            named = self._is_system(given)
            items = tuple(i.sides[-1] for i in given.items) if named else given.items
            return (len(brackets) == 1 or ("" in brackets and "{" not in brackets)) and (
                self._same_items(gold.items, items)
            )
        if given.bracket not in ("", "{"):
            return False
        if isinstance(gold.items[0], Quantity) and gold.items[0].tree.op == "matrix":
            return self._same_items(gold.items, given.items)
        return self._same_members(_members(gold), _members(given))

    def _same_items(self, gold: Sequence[Value], given: Sequence[Value]) -> bool:
        return len(gold) == len(given) and all(
            self.same(a, b) for a, b in zip(gold, given, strict=True)
        )

    def _same_members(self, gold: list[Value], given: list[Value]) -> bool:
        return all(any(self._safely(g, p) for p in given) for g in gold) and all(
            any(self._safely(g, p) for g in gold) for p in given
        )

    def _safely(self, gold: Value, given: Value) -> bool:
        try:
            return self.same(gold, given)
        except algebra.NotComparable:
            return False

    def _is_system(self, value: Value) -> bool:
        """Return whether a value gives each of several names its value: `x=1, y=2`."""
        if not isinstance(value, Collection):
            return False
        named = [item.name for item in value.items if isinstance(item, Chain)]
        return len(named) == len(value.items) and len({_without_index(n) for n in named}) > 1

    def _same_system(self, gold: Collection, given: Collection) -> bool:
        if self._is_system(given):
            return _matched(gold.items, given.items, self._same_chain)
        values = tuple(item.sides[-1] for item in gold.items)
        return given.bracket in ("", "(") and self._same_items(values, given.items)

    def _same_ratio(self, gold: Value, given: Value) -> bool:
        parts = [_ratio_of(value) for value in (gold, given)]
        if parts[0] is None or parts[1] is None or len(parts[0]) != len(parts[1]):
            return False
        scales = [conversion(a[0].unit, a[-1].unit) for a in parts]
        if None in scales:
            return False
        trees = [[_in_unit(part, side[0].unit) for part in side] for side in parts]
        if any(tree is None for side in trees for tree in side):
            return False
        pairs = itertools.combinations(range(len(parts[0])), 2)
        return all(
            algebra.equal(
                Node("*", (trees[0][i], trees[1][j])),
                Node("*", (trees[0][j], trees[1][i])),
                numeric=self._numeric,
            )
            for i, j in pairs
        ) and all(self._is_zero(a) == self._is_zero(b) for a, b in zip(*trees, strict=True))

    def _is_zero(self, tree: Node) -> bool:
        return algebra.exact(tree) == 0

    def _same_rows(self, gold: Quantity, given: Collection) -> bool:
        rows = gold.tree.args
        if all(isinstance(item, Collection) for item in given.items):
            cells = [[Quantity(cell) for cell in row] for row in rows]
            return len(cells) == len(given.items) and all(
                self._same_items(row, item.items)
                for row, item in zip(cells, given.items, strict=True)
            )
        line = [row[0] for row in rows] if all(len(row) == 1 for row in rows) else rows[0]
        flat = len(rows) == 1 or all(len(row) == 1 for row in rows)
        return flat and self._same_items([Quantity(cell) for cell in line], given.items)


def _exact(value: Fraction) -> Node:
    return Node("number", (value, None))


def _is_single(value: Value) -> bool:
    return isinstance(value, Collection) and value.bracket == "{" and len(value.items) == 1


def _within(gold: Fraction, given: Fraction, rule: str, size: float) -> bool:
    if rule == "decimals":
        return round(gold, int(size)) == round(given, int(size))
    allowed = Fraction(str(size)) * (abs(gold) if rule == "rel" else 1)
    return abs(gold - given) <= allowed


def _digits(tree: Node) -> int:
    if tree.op == "negative":
        return _digits(tree.args[0])
    return (tree.args[1] or 0) if tree.op == "number" else 0


def _last_place(number: Fraction, digits: int) -> Fraction:
    """Return one unit of the last of so many significant digits."""
    size, power = abs(number), 0
    while size >= 10:
        size, power = size / 10, power + 1
    while size and size < 1:
        size, power = size * 10, power - 1
    return Fraction(10) ** (power - digits + 1)


def _difference(chain: Chain) -> Node | None:
    sides = [side for side in (chain.left, *chain.sides) if side is not None]
    if len(sides) != 2 or not all(isinstance(side, Quantity) for side in sides):
        return None
    return _minus(*sides)


def _minus(left: Quantity, right: Quantity) -> Node:
    return Node("+", (left.tree, Node("negative", (right.tree,))))


def _claims(gold: Value, given: Chain) -> tuple[Value, ...]:
    """Return the sides that can be checked: behind a name, formulas before a number cannot."""
    if not isinstance(gold, Quantity) or given.name is None or algebra.names(gold.tree):
        return given.sides
    numbers = [
        side
        for side in given.sides
        if not (isinstance(side, Quantity) and algebra.names(side.tree))
    ]
    return tuple(numbers) if numbers and numbers[-1] is given.sides[-1] else given.sides


def _variable(name: str | None) -> str | None:
    """Return `y` for `f(x)`, which names the same values."""
    return "y" if name in ("f(x)", "g(x)", "h(x)") else name


def _turned(relation: Relation) -> Relation:
    return Relation(tuple(_TURNED[s] for s in relation.signs[::-1]), relation.sides[::-1])


def _matched(gold: Sequence[object], given: Sequence[object], same: object) -> bool:
    """Return whether each of one side has its own equal on the other."""
    left = list(given)
    for part in gold:
        equal = next((other for other in left if same(part, other)), None)
        if equal is None:
            return False
        left.remove(equal)
    return not left


def _members_by_sign(value: Value) -> bool:
    return isinstance(value, Quantity) and len(algebra.signs(value.tree)) > 1


def _members(value: Value) -> list[Value]:
    """Return what a set lists: `\\pm a` as two, `x = 1, x = 2` without its one name."""
    items = value.items if isinstance(value, Collection) else (value,)
    named = [item.name for item in items if isinstance(item, Chain)]
    if len(named) == len(items) and len({_without_index(name) for name in named}) == 1:
        items = tuple(item.sides[-1] for item in items)
    found: list[Value] = []
    for item in items:
        if isinstance(item, Quantity):
            found += [item._replace(tree=tree) for tree in algebra.signs(item.tree)]
        else:
            found.append(item)
    return found


def _without_index(name: str | None) -> str | None:
    """Return `x` for a root `x_1`: a solver may number the roots in any order."""
    return re.sub(r"_\{?\d+\}?$", "", name) if name else name


def _ratio_of(value: Value) -> tuple[Quantity, ...] | None:
    """Return the parts of a ratio, or of a fraction; a decimal is a number."""
    if isinstance(value, Proportion):
        return value.parts
    if isinstance(value, Quantity) and value.unit is None:
        tree = value.tree
        if tree.op == "/":
            return Quantity(tree.args[0]), Quantity(tree.args[1])
        if not _digits(tree) and tree.op != "number":
            return Quantity(tree), Quantity(_exact(Fraction(1)))
        if tree.op == "number" and not _digits(tree):
            return value, Quantity(_exact(Fraction(1)))
    return None


def _in_unit(part: Quantity, unit: Unit | None) -> Node | None:
    factor = conversion(unit, part.unit)
    if factor is None:
        return None
    return part.tree if factor == 1 else Node("*", (part.tree, _exact(factor)))
