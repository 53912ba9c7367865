"""The kinds of values that an answer can have."""

from typing import NamedTuple

from vlm_rl.verification.quantities import Quantity, are_quantities
from vlm_rl.verification.regions import Region, interval, points, union

_CLOSING = {"(": ")", "[": "]"}


class Chain(NamedTuple):
    """`x = 2 + 3 = 5`: what is claimed to be equal, and the name that comes first, if it is one.

    `left` is what the name reads as, None if it is no value. `rounded` is the decimal that a side
    was said to be near, which it is.
    """

    name: str | None
    left: "Value | None"
    sides: tuple["Value", ...]
    rounded: "Value | None" = None


class Relation(NamedTuple):
    """Sides and the signs between them, such as `c > a > b`."""

    signs: tuple[str, ...]
    sides: tuple[Quantity, ...]


class Collection(NamedTuple):
    """Values with a bracket around them: `(`, `[`, `{`, or none."""

    bracket: str
    items: tuple["Value", ...]


class Proportion(NamedTuple):
    """The parts of `3:4:5`."""

    parts: tuple[Quantity, ...]


class Words(NamedTuple):
    """Text, by its one spelling."""

    text: str


Value = Quantity | Chain | Relation | Collection | Proportion | Words | Region


def has_unit(value: Value) -> bool:
    """Return whether a value surely has a unit, so that letters beside it are units, too."""
    if isinstance(value, Proportion):
        return any(map(has_unit, value.parts))
    if isinstance(value, Chain | Collection):
        return any(map(has_unit, value.sides if isinstance(value, Chain) else value.items))
    return isinstance(value, Quantity) and value.unit is not None and value.unit.sure


def as_region(value: Value) -> Region | None:
    """Return a set of real numbers: what an interval, an inequality or two ends can be read as."""
    match value:
        case Region():
            return value
        case Collection("", items) if all(isinstance(item, Region) for item in items):
            return union([item for item in items if isinstance(item, Region)])._replace(
                offered=True
            )
        case Collection("", [Chain(str(name)), *_] as items):
            sides = [i.sides[0] for i in items if isinstance(i, Chain) and i.name == name]
            whole = len(sides) == len(items) and all(
                len(i.sides) == 1 for i in items if isinstance(i, Chain)
            )
            return points(sides)._replace(name=name) if whole and are_quantities(sides) else None
        case Chain(str(name), _, (side,)):
            region = as_region(side)
            return region and region._replace(name=name)
        case Collection("{", items):
            return points(items) if are_quantities(items) else None
        case Collection("(" | "[" as bracket, (_, _) as ends):
            return interval(bracket, ends, _CLOSING[bracket])
    return None
