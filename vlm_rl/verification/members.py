"""What a collection holds: the members of a set, the names of a system, the places of a point."""

import re
from collections.abc import Iterable
from typing import TypeGuard

from vlm_rl.verification import algebra
from vlm_rl.verification.grammar import ONE, Node
from vlm_rl.verification.quantities import Quantity, are_quantities
from vlm_rl.verification.regions import Region
from vlm_rl.verification.values import Chain, Collection, Value, Words


def alone(value: Value) -> Value:
    """Return the member of a set of one, and `\\pm a` as a set."""
    while isinstance(value, Collection) and value.bracket == "{" and len(value.items) == 1:
        if is_set(value.items[0]):
            break  # the set of the empty set is not empty
        (value,) = value.items
    both = _signed(value)
    return Collection("{", tuple(both)) if len(both) > 1 else value


def is_set(value: Value) -> bool:
    """Return whether a value is written as a set, and not as a condition."""
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


def members(value: Collection) -> list[Value]:
    """Return what a set lists: `\\pm a` as two, `x = 1, x = 2` without its one name."""
    named = len(variables(value)) == 1 or all(map(is_point, value.items))
    items = _sides(value.items) if named else value.items
    return [member for item in items for member in _signed(item)]


def variables(value: Value) -> set[str]:
    """Return the names that all members have. A solver may number the roots of x in any order."""
    items = value.items if isinstance(value, Collection) else ()
    names = [item.name for item in items if isinstance(item, Chain) and item.name is not None]
    if len(names) < len(items):
        return set()
    return {re.sub(r"^x_\{?\d+\}?$", "x", name) for name in names}


def is_system(value: Value) -> TypeGuard[Collection]:
    """Return whether a value gives each of several names its value: `x=1, y=2`."""
    return len(variables(value)) > 1


def is_point(value: Value) -> bool:
    """Return whether a value is a point with its name."""
    return isinstance(value, Chain) and isinstance(value.sides[0], Collection)


def as_point(value: Collection) -> Collection:
    """Read `y=2, x=1` as `(1, 2)`, in the order of the alphabet."""
    if not is_system(value):
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


def is_mixed(value: Collection) -> bool:
    """Return whether a list has words and numbers: the answers to several questions, in order."""
    words = [isinstance(item, Words) for item in value.items]
    return any(words) and not all(words)


def along_axes(formula: Value, place: Value) -> tuple[Node, Node] | None:
    """Return `2i - j` and the same sum for `(2, -1)`, a row or a column; None for others."""
    match place:
        case Quantity(Node("matrix", rows), None) if {1} in ({len(rows)}, {*map(len, rows)}):
            cells = [cell for row in rows for cell in row]
        case Collection("(", items) if are_quantities(items) and not any(i.unit for i in items):
            cells = [item.tree for item in items]
        case _:
            return None
    tree = _named(formula.tree) if isinstance(formula, Quantity) and not formula.unit else ONE
    free = algebra.names(tree)
    if not free & {"j", "k"} or len(cells) > 3:
        return None
    terms = [(Node("name", (axis,)), cell) for axis, cell in zip("ijk", cells, strict=False)]
    kept = [term for term in terms if algebra.exact(term[1]) != 0 or free & {*term[0].args}]
    return tree, Node("+", tuple(Node("*", term) for term in kept))


def _named(tree: Node) -> Node:
    """Read the constant `i` as a name."""
    return Node("name", ("i",)) if tree == Node("constant", ("i",)) else tree.rebuilt(_named)
