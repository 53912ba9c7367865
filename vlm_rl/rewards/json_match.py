"""A term for golds that are JSON: objects, lists, the cell of a table."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from vlm_rl.records import Problem, Verdict
from vlm_rl.rewards.answer_term import AnswerTerm, Rated, SlotStyle
from vlm_rl.verification.gold import GoldUnparsable, Unparsable, reading_gold
from vlm_rl.verification.json_values import json_values

Leaves = dict[tuple[str | int, ...], tuple[str, Any]]
"""What stands at the end of each path of keys and indices, with its type."""
CELL_KEYS = frozenset(("row", "column", "value"))


class JsonMatch(AnswerTerm[Leaves, Leaves]):
    """The share of leaves that are right, of all that the gold or the answer has; correct if all.

    Leaves are texts, numbers, true, false, null and what is empty. They are found by their keys in
    objects, whose order does not count, and by their places in lists. Numbers are equal by value
    (1.0 and 1), texts to the letter, and no text is a number. JSON stands alone, in a fence or
    between words; two that differ are a hedge, an object with a key twice cannot be read. The gold
    of `answer_type` cell is an object of row, column and value.
    """

    def __init__(self, answer_style: SlotStyle = "bare", weight: float = 1.0) -> None:
        super().__init__(weight, answer_style)

    def gold(self, problem: Problem, answer: str) -> Leaves:
        with reading_gold():
            value, *others = json_values(answer)
            if others:
                raise Unparsable("more than one JSON value")
        if problem.answer_type == "cell" and not (
            isinstance(value, dict) and value.keys() == CELL_KEYS
        ):
            raise GoldUnparsable("a cell is an object of row, column and value")
        return leaves(value)

    def given(self, problem: Problem, text: str) -> Sequence[Leaves]:
        return [leaves(value) for value in json_values(text)]

    def compare(self, gold: Leaves, given: Leaves) -> Rated:
        right = sum(path in given and given[path] == leaf for path, leaf in gold.items())
        share = right / len(gold.keys() | given.keys())
        return Rated(share, Verdict.CORRECT if share == 1 else Verdict.WRONG)


def leaves(value: Any) -> Leaves:
    """Return the leaves of a JSON value by their paths."""
    found: Leaves = {}
    todo: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while todo:
        path, one = todo.pop()
        if isinstance(one, dict | list) and one:
            pairs = one.items() if isinstance(one, dict) else enumerate(one)
            todo += [((*path, key), inside) for key, inside in pairs]
        else:
            found[path] = _typed(one)
    return found


def _typed(leaf: Any) -> tuple[str, Any]:
    if isinstance(leaf, bool) or leaf is None:
        return "word", leaf
    return ("number" if isinstance(leaf, int | Decimal) else type(leaf).__name__), leaf
