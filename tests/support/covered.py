"""What the tests cover of each model family, read from the tests that pytest collects.

`@pytest.mark.covers("FSDP2")` says that a test, run for a family, is a proof of this column;
`@pytest.mark.refuses("ZeRO-3")` that it shows a refusal. The family is the one parameter of the
test that names one. A column is proven by all functions that are marked with it, so a family that
one of them is not run for is covered in part.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import pytest

from tests.support.tiny import FAMILIES

COLUMNS = (
    "prompts",
    "shared forward",
    "engine",
    "LoRA",
    "checkpoint",
    "fit",
    "FSDP2",
    "ZeRO-1",
    "ZeRO-2",
    "ZeRO-3",
    "vLLM",
)

UNCOUNTED = ("skip", "xfail", "gpu")
"""Marks of tests that prove nothing where `make test` and `make test-long` run."""


class Proof(NamedTuple):
    """One function that is marked, run for one family."""

    column: str
    family: str
    function: str
    is_refusal: bool
    is_long: bool


def proofs_of(items: Iterable[pytest.Item]) -> list[Proof]:
    """Read the marks of collected tests.

    Raises ValueError if a marked test names no family, or a column that is not in `COLUMNS`.
    """
    proofs = []
    for item in items:
        if any(item.get_closest_marker(mark) for mark in UNCOUNTED):
            continue
        for mark in ("covers", "refuses"):
            for marker in item.iter_markers(mark):
                (column,) = marker.args
                if column not in COLUMNS:
                    raise ValueError(
                        f"{item.nodeid}: {mark}({column!r}) names no column; write one of "
                        f"{', '.join(COLUMNS)}"
                    )
                function = item.nodeid.partition("[")[0]
                is_long = item.get_closest_marker("long") is not None
                proofs.append(
                    Proof(column, _family(item, mark), function, mark == "refuses", is_long)
                )
    return proofs


def _family(item: pytest.Item, mark: str) -> str:
    callspec = getattr(item, "callspec", None)
    values = [] if callspec is None else callspec.params.values()
    named = [value for value in values if isinstance(value, str) and value in FAMILIES]
    if len(named) != 1:
        raise ValueError(
            f"{item.nodeid}: a test marked {mark} must have one parameter that is a family, "
            f"it has {len(named)}; parametrize it by family"
        )
    return named[0]


def cells(proofs: Iterable[Proof]) -> dict[tuple[str, str], str]:
    """Return the cell of each family and column: yes, long, in part, refused or no.

    "long" if `make test` leaves out every run of one of the functions for this family. Raises
    ValueError if a family is refused and covered at once.
    """
    needed: dict[str, set[str]] = defaultdict(set)
    seen: dict[tuple[str, str], list[Proof]] = defaultdict(list)
    for proof in proofs:
        seen[proof.family, proof.column].append(proof)
        if not proof.is_refusal:
            needed[proof.column].add(proof.function)
    return {
        (family, column): _cell(seen[family, column], needed[column])
        for family in FAMILIES
        for column in COLUMNS
    }


def _cell(proofs: list[Proof], needed: set[str]) -> str:
    if any(proof.is_refusal for proof in proofs):
        if not all(proof.is_refusal for proof in proofs):
            names = ", ".join(sorted({proof.function for proof in proofs}))
            raise ValueError(f"{proofs[0].family} is refused and covered at once: {names}")
        return "refused"
    if not proofs:
        return "no"
    if {proof.function for proof in proofs} != needed:
        return "in part"
    soon = {proof.function for proof in proofs if not proof.is_long}
    return "yes" if soon == needed else "long"
