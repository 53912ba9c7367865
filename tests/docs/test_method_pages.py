"""The table of methods: what it calls present is there, and no method and no overlay is left out.

Broken on purpose, each seen red: a class renamed in the table, an overlay that does not exist, a
state of another word, a method or an overlay taken out.
"""

import importlib
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.documented import DOCS
from tests.support.places import CONFIGS, REPOSITORY

PAGE = DOCS / "length_methods.md"
STATES = {"present", "fits", "hook", "outside"}
HOMES = (
    "advantages",
    "edits",
    "objectives",
    "rewards",
    "shaping",
    "training",
    "data.length_targets",
)
NOT_CLASSES = {"dual_clip", "data.prompts_per_step", "updates.num_minibatches"}


class Method(NamedTuple):
    name: str
    state: str
    where: str

    @property
    def named(self) -> list[str]:
        return re.findall(r"`([^`]+)`", self.where)


def _methods() -> list[Method]:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return [Method(*row) for row in cells if row[0] not in ("method", "---")]


METHODS = _methods()


def _exists(name: str) -> bool:
    if name.startswith("configs/"):
        return (REPOSITORY / name).is_file()
    modules = (importlib.import_module(f"vlm_rl.{home}") for home in HOMES)
    return name in NOT_CLASSES or any(hasattr(module, name) for module in modules)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_has_a_state_and_what_it_names_exists(method: Method) -> None:
    assert method.state in STATES
    assert method.where
    assert [name for name in method.named if not _exists(name)] == []
    if method.state == "present":
        assert method.named, "a class or an overlay"
    if method.state == "fits":
        assert method.named, "the place where a class of it goes"


def test_no_method_stands_twice() -> None:
    names = [method.name for method in METHODS]
    assert len(set(names)) == len(names)
    assert len(names) > 60


def test_every_overlay_of_length_is_of_a_method() -> None:
    named = {name for method in METHODS for name in method.named}
    overlays = {f"configs/length/{path.name}" for path in (CONFIGS / "length").glob("*.yaml")}
    assert overlays <= named


def _plain(text: str) -> str:
    for special, plain in (
        ("\u2011", "-"),
        ("\u2013", "-"),
        ("\u00b2", "2"),
        ("\u00b3", "3"),
        ("\u03bb", "lambda"),
    ):
        text = text.replace(special, plain)
    return re.sub(r"\s+", " ", text).casefold()


def test_every_method_of_the_catalogue_is_on_the_page(shared: Path) -> None:
    """Of its sections on length and on the works that cite GSPO."""
    text = (shared / "reference" / "methods.md").read_text()
    of_length = text.partition("## 5. Tier B")[2].partition("## 6. Tier C")[0]
    citing = text.partition("## 6. Tier C")[2].partition("## 7.")[0]
    wanted = re.findall(r"^### 5\.\d+ ([^(\n]+)", of_length, re.MULTILINE)[:12]
    first = re.findall(r"^\| ([^|]+) \|", citing, re.MULTILINE)[1:]
    first += re.findall(r"^\| ([^|]+) \|", of_length, re.MULTILINE)[1:]
    wanted += [re.sub(r" \d{4}\.\d{5}| \[code\]| \([^)]*\)", "", cell) for cell in first]
    page = _plain(PAGE.read_text())
    names = [
        part.strip()
        for cell in wanted
        for part in re.split(r", | / ", _plain(cell))
        if part.strip(" -")
    ]
    assert len(names) > 60
    missing = [name for name in names if name.removesuffix(" length reward") not in page]
    assert missing == []
