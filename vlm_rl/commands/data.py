"""Make data sets: `vlm-rl data NAME ...` is `python -m data_prep.NAME ...`."""

import ast
import runpy
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from vlm_rl.show.screen import say_all, warn

SETS = (
    *("synthetic", "geometry3k", "geoqa", "clevr", "mmk12", "virl39k", "open_r1", "dynamath"),
    *("mathvision", "dapo_math", "competition_math"),
)
"""The scripts of data_prep that make one."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script of a data set, or list them. Raises SystemExit as it does."""
    name, *rest = (sys.argv[2:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help", "--help=all"):
        say_all(listing())
    elif name in SETS:
        sys.argv = [f"vlm-rl data {name}", *rest]
        runpy.run_module(f"data_prep.{name}", run_name="__main__")
    else:
        close = get_close_matches(name, SETS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(SETS)}"
        warn(f"vlm-rl data: {name} is not a data set; {hint}")
        raise SystemExit(2)


def listing() -> str:
    """Return the names with the first line of each script."""
    width = max(map(len, SETS))
    return "\n".join(
        [
            "usage: vlm-rl data NAME --output FOLDER [--KEY VALUE ...]",
            "",
            *(f"  {name:<{width}}  {_about(name)}" for name in SETS),
            "",
            "`vlm-rl data NAME --help` explains one. Your own rows need no conversion.",
        ]
    )


def _about(name: str) -> str:
    """Return the first line of a script, without importing it."""
    spec = find_spec("data_prep")
    assert spec is not None, "data_prep is installed with vlm_rl"
    assert spec.origin is not None, "data_prep has an __init__"
    text = (Path(spec.origin).parent / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
