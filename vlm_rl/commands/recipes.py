"""List the configurations that have a name, or print one: `vlm-rl recipes [NAME]`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

from vlm_rl.recipes import finding
from vlm_rl.show.screen import say_all, warn

COLUMNS = 100
SHELVES = {
    "": "Whole runs: vlm-rl fit --config NAME",
    "objective": "Objectives, merged over a run: vlm-rl fit --config RUN --config objective/NAME",
    "length": "Control of length, merged over a run in the same way",
    "studies": "Studies: vlm-rl study --config studies/NAME",
    "evaluation": "Evaluations: vlm-rl evaluate --config evaluation/NAME",
}
"""Folder -> how its recipes are used."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print the names with the first line of each file, or the text of one."""
    parser = argparse.ArgumentParser(prog="vlm-rl recipes", description=__doc__, allow_abbrev=False)
    parser.add_argument("name", metavar="NAME", nargs="?", help="print this one")
    name = parser.parse_args(argv).name
    if name is None:
        say_all(shelves())
        return
    try:
        say_all(Path(finding.find(name)).read_text(encoding="utf-8").removesuffix("\n"))
    except ValueError as error:
        warn(f"vlm-rl recipes: {error}")
        raise SystemExit(2) from error


def shelves() -> str:
    """Return the list of all recipes, by folder."""
    names = finding.names()
    width = max(map(len, names))
    lines = []
    for shelf, use in SHELVES.items():
        lines += ["", use, ""]
        here = [name for name in names if name.rpartition("/")[0] == shelf]
        about = (shorten(_about(name), COLUMNS - width, placeholder=" ...") for name in here)
        lines += [f"  {name:<{width}}  {text}" for name, text in zip(here, about, strict=True)]
    return "\n".join(lines[1:])


def _about(name: str) -> str:
    """Return the first sentence of the comment that a recipe begins with."""
    comment = Path(finding.find(f"configs/{name}")).read_text(encoding="utf-8").splitlines()
    lines = []
    for line in comment:
        if line in ("#", "") or not line.startswith("#"):
            break
        lines.append(line.removeprefix("# "))
    return " ".join(lines).partition(". ")[0].removesuffix(".")
