"""The table of families in README.md says what the tests cover, and no more."""

import subprocess
import sys
from pathlib import Path

import pytest

from measurements.family_table import collected
from tests.support.covered import Proof, cells, proofs_of
from tests.support.places import REPOSITORY

FAMILY, OTHER = "qwen3_vl", "qwen3_5"


def test_readme_has_the_table() -> None:
    """In a process of its own: pytest collects there what it has collected here."""
    done = subprocess.run(
        [sys.executable, "-m", "measurements.family_table"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    if "a package is missing" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout in (REPOSITORY / "README.md").read_text()


def proof(family: str, function: str, *, refusal: bool = False, is_long: bool = False) -> Proof:
    return Proof("LoRA", family, function, refusal, is_long)


@pytest.mark.parametrize(
    ("proofs", "expected"),
    [
        ([], "no"),
        ([proof(OTHER, "a")], "no"),
        ([proof(FAMILY, "a"), proof(OTHER, "a")], "yes"),
        ([proof(FAMILY, "a"), proof(FAMILY, "a", is_long=True)], "yes"),
        ([proof(FAMILY, "a"), proof(FAMILY, "b", is_long=True)], "long"),
        ([proof(FAMILY, "a"), proof(OTHER, "a"), proof(OTHER, "b")], "in part"),
        ([proof(FAMILY, "a", refusal=True), proof(OTHER, "b")], "refused"),
    ],
)
def test_cell_is_as_strong_as_the_weakest_proof_of_its_column(
    proofs: list[Proof], expected: str
) -> None:
    assert cells(proofs)[FAMILY, "LoRA"] == expected


def test_family_that_is_refused_and_covered_is_an_error() -> None:
    with pytest.raises(ValueError, match="qwen3_vl is refused and covered at once: a, b"):
        cells([proof(FAMILY, "a", refusal=True), proof(FAMILY, "b")])


FILE = """
import pytest
each = pytest.mark.parametrize("family", ["qwen3_vl", "qwen3_5"])

@pytest.mark.covers("LoRA")
@each
@pytest.mark.parametrize("rank", [1, pytest.param(2, marks=pytest.mark.covers("fit"))])
def test_marked(family, rank): ...

@each
def test_unmarked(family): ...

@pytest.mark.skip
@pytest.mark.covers("vLLM")
@each
def test_skipped(family): ...
"""


def test_only_marked_tests_that_run_are_proofs(tmp_path: Path) -> None:
    file = tmp_path / "test_some.py"
    file.write_text(FILE)
    found = {(p.column, p.family, p.function.split("::")[-1]) for p in proofs_of(collected(file))}
    assert found == {
        (column, family, "test_marked") for column in ("LoRA", "fit") for family in (FAMILY, OTHER)
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('covers("LoRA")', 'covers("Lora")', r"covers\('Lora'\) names no column; write one of"),
        ('"qwen3_vl", "qwen3_5"', '"any"', "must have one parameter that is a family, it has 0"),
    ],
)
def test_mark_that_proves_nothing_is_an_error(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "test_some.py"
    file.write_text(FILE.replace(old, new))
    with pytest.raises(ValueError, match=rf"::test_marked.*{message}"):
        proofs_of(collected(file))
