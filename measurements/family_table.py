"""What the tests cover of each model family, read from the tests themselves:

    python -m measurements.family_table

Prints the table of README.md: pytest collects the tests with a mark `covers` or `refuses`
(`tests/support/covered.py`) and runs none. A cell that no test is marked for says "no".
"""

import argparse
import contextlib
import io
from pathlib import Path

import pytest

import vlm_rl  # noqa: F401  (before anything that imports torchvision)

# isort: split
from tests.support.covered import COLUMNS, cells, proofs_of
from tests.support.places import REPOSITORY
from tests.support.tiny import FAMILIES
from vlm_rl.show.markdown import table

NAMES = {
    "qwen2_vl": "Qwen2-VL",
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL (dense)",
    "qwen3_vl_moe": "Qwen3-VL-MoE",
    "qwen3_5": "Qwen3.5 (dense; also 3.6, 3.8)",
    "qwen3_5_moe": "Qwen3.5-MoE",
}
"""What the families are called where their checkpoints are published."""

CONFIG = REPOSITORY / "pyproject.toml"


class Collected:
    """Keeps what pytest collects, and the files that it skips."""

    def __init__(self) -> None:
        self.items: list[pytest.Item] = []
        self.skipped: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that is left out, for lack of a package for example."""
        if report.skipped:
            self.skipped.append(report.nodeid)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Keep the tests."""
        self.items = session.items


def marked_files() -> list[Path]:
    """List the files of tests in which one is marked."""
    files = sorted((REPOSITORY / "tests").rglob("test_*.py"))
    marks = ("mark.covers(", "mark.refuses(")
    return [file for file in files if any(mark in file.read_text() for mark in marks)]


def collected(*files: Path) -> list[pytest.Item]:
    """Return the tests of some files without running one.

    Raises RuntimeError if one cannot be collected, or a package for it is missing.
    """
    seen = Collected()
    arguments = ["--collect-only", "--quiet", "-p", "no:cacheprovider", "-c", str(CONFIG)]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = pytest.main([*arguments, *map(str, files)], plugins=[seen])
    if status != pytest.ExitCode.OK:
        raise RuntimeError(f"pytest cannot collect the tests:\n{said.getvalue()[-4000:]}")
    if seen.skipped:
        raise RuntimeError(f"{', '.join(seen.skipped)}: a package is missing; run `make vllm`")
    return seen.items


def family_table() -> str:
    """Return the table, a row per family."""
    found = cells(proofs_of(collected(*marked_files())))
    rows = [[NAMES[family], *(found[family, column] for column in COLUMNS)] for family in FAMILIES]
    return table(["family", *COLUMNS], rows)


def main() -> None:
    """Print the table; there are no arguments but --help."""
    form = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=form).parse_args()
    print(family_table())


if __name__ == "__main__":
    main()
