"""Say in words how a text was read: the first half of a verdict's trace, the rule is the second."""

from vlm_rl.verification.gold import MAX_CHARACTERS, Gold, Unparsable
from vlm_rl.verification.grammar import Node
from vlm_rl.verification.matching import FAULTS, is_lenient
from vlm_rl.verification.quantities import Quantity
from vlm_rl.verification.reading import read
from vlm_rl.verification.regions import RealInterval, Region
from vlm_rl.verification.units import Unit
from vlm_rl.verification.values import Chain, Collection, Proportion, Relation, Value

_INFIX = {"+": " + ", "*": "·", "/": "/", "^": "^"}


def read_as(gold: Gold, text: str) -> str:
    """Return what a text reads as beside a gold, such as `quantity 5 in 1/100 meter`."""
    if len(text) > MAX_CHARACTERS:
        return "unread: long"
    if gold.answer_type in ("choice", "text"):
        return f"{gold.answer_type} {text.strip()}"
    try:
        return _shown(read(text, lenient=is_lenient(gold)))
    except (Unparsable, *FAULTS) as failure:
        return f"unread: {failure}"


def _shown(value: Value) -> str:
    match value:
        case Quantity(tree, Unit(factor, powers)):
            bases = "·".join(base if power == 1 else f"{base}^{power}" for base, power in powers)
            return f"quantity {_written(tree)} in {factor} {bases}"
        case Quantity(tree):
            return f"value {_written(tree)}"
        case Chain(name, _, sides):
            return f"{name or 'sides'} = {' = '.join(map(_shown, sides))}"
        case Relation(signs, sides):
            shown = [_written(side.tree) for side in sides]
            return "relation " + " ".join(
                f"{a} {b}" for a, b in zip(shown, (*signs, ""), strict=True)
            )
        case Proportion(parts):
            return "ratio " + " : ".join(_written(part.tree) for part in parts)
        case Collection(bracket, items):
            kind = {"(": "tuple", "[": "list", "{": "set"}.get(bracket, "several")
            return f"{kind} of " + "; ".join(map(_shown, items))
        case Region(parts):
            return "set " + (" or ".join(map(_interval, parts)) or "empty")
    return f"words {value.text}"


def _interval(part: RealInterval) -> str:
    low = "-∞" if part.low is None else _written(part.low.tree)
    high = "∞" if part.high is None else _written(part.high.tree)
    return f"{'[' if part.low_closed else '('}{low}, {high}{']' if part.high_closed else ')'}"


def _written(tree: Node) -> str:
    """Write an expression on one line, with a bracket around every sum."""
    op, args = tree
    if op in ("number", "name", "constant"):
        return str(args[0])
    if op == "matrix":
        return str([[_written(cell) for cell in row] for row in args])
    inner = [_written(arg) for arg in args]
    if op == "negative":
        return f"-{inner[0]}"
    if op in _INFIX:
        joined = _INFIX[op].join(inner)
        return f"({joined})" if op == "+" else joined
    return f"{op}({', '.join(inner)})"
