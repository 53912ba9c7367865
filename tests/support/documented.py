"""The pages of the documentation and the commands in them, for tests.

In a command `RUN.yaml` or `config.yaml` stands for the config of a run and `data_prep.NAME` for any
converter. Words in capitals stand for what a user puts there; parsers take them as they are.
`vlm-rl NAME` is the module behind it.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.places import REPOSITORY
from vlm_rl.commands.data import SETS
from vlm_rl.commands.table import COMMANDS

DOCS = REPOSITORY / "docs"
PAGES = (REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = "configs/quickstart.yaml"
LAUNCHERS = ("torchrun", "srun")
SHELL = {"for", "do", "done"}


class Command(NamedTuple):
    """One command of a page: its words without variables and launchers, placeholders filled in."""

    page: str
    line: str
    words: tuple[str, ...]


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a page in one language."""
    return [block for name, block in FENCE.findall(text) if name == language]


def commands() -> list[Command]:
    """Return every command in a shell block of a page."""
    return [command for page in PAGES for command in _commands_of(page)]


def _commands_of(page: Path) -> Iterator[Command]:
    name = str(page.relative_to(REPOSITORY))
    for block in blocks(page.read_text(), "bash"):
        joined = block.replace("\\\n", " ").replace("; ", "\n")
        for line in joined.splitlines():
            words = shlex.split(line.strip(), comments=True)
            if words and words[0] not in SHELL:
                yield Command(name, line.strip(), tuple(_filled(_plain(words))))


def _plain(words: list[str]) -> list[str]:
    """Drop variables before the command, and the launcher of several processes."""
    while "=" in words[0]:
        words = words[1:]
    words = words[: words.index("|")] if "|" in words else words
    if words[0] == "vlm-rl" and words[1:2] and words[1] in COMMANDS:
        return ["python", "-m", *_module(words[1], words[2:])]
    if words[0] in LAUNCHERS:
        return ["python", *words[words.index("-m") :]]
    return words


def _module(name: str, words: list[str]) -> list[str]:
    """Return the module behind a command of `vlm-rl`, and the words after it."""
    if name == "data" and words[:1] and words[0] in SETS:
        return [f"data_prep.{words[0]}", *words[1:]]
    return [COMMANDS[name].module, *words]


def _filled(words: list[str]) -> list[str]:
    values = {
        "RUN.yaml": RUN,
        "config.yaml": RUN,
        "$seed": "0",
        "runs/$objective-$seed": "runs/GRPO-0",
    }
    filled = [values.get(word, word).replace("$objective", "GRPO") for word in words]
    return [word.replace("data_prep.NAME", "data_prep.geometry3k") for word in filled]
