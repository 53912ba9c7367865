"""Make the Tab key complete commands, keys and recipes: `eval "$(vlm-rl completion bash)"`.

For zsh and fish the same with their name. With the line in ~/.bashrc every shell has it. What Tab
offers is read from the pages of `--help`, so that nothing heavy is imported.
"""

import argparse
import re
from collections.abc import Iterator, Sequence

import argcomplete
from argcomplete.shell_integration import shellcode

from vlm_rl.commands.data import SETS
from vlm_rl.commands.table import COMMANDS
from vlm_rl.recipes import finding
from vlm_rl.show.help import page_of
from vlm_rl.show.screen import say_all

SHELLS = ("bash", "zsh", "fish")
_KEY = re.compile(r"^ {2}(?:-h, )?(--[\w.]+)", re.MULTILINE)
_CHOICES = re.compile(r"^ {2}(--[\w.]+) \{([\w,.-]+)\}", re.MULTILINE)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the code that the shell is to run."""
    parser = argparse.ArgumentParser(
        prog="vlm-rl completion",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("shell", choices=SHELLS)
    shell = parser.parse_args(argv).shell
    say_all(shellcode(["vlm-rl"], shell=shell))


def complete() -> None:
    """Answer the shell and end, if it is the shell that asks; return otherwise."""
    argcomplete.autocomplete(_parser(), always_complete_options="long", append_space=True)


def _parser() -> argparse.ArgumentParser:
    """Return a light parser of every command that has a page, for completion only."""
    parser = argparse.ArgumentParser("vlm-rl")
    parser.add_argument("--version", action="store_true")
    commands = parser.add_subparsers()
    for name, entry in COMMANDS.items():
        _add_keys(commands.add_parser(name, help=entry.purpose, add_help=False), name)
    _add_positionals(commands.choices)
    return parser


def _add_keys(parser: argparse.ArgumentParser, name: str) -> None:
    for key, choices in _keys(name):
        option = parser.add_argument(key, choices=choices)
        if key == "--config":
            option.completer = _recipes_and_files  # type: ignore[attr-defined]


def _keys(name: str) -> Iterator[tuple[str, list[str] | None]]:
    page = page_of(name, whole=True)
    choices = {key: values.split(",") for key, values in _CHOICES.findall(page)}
    for key in dict.fromkeys(_KEY.findall(page)):
        yield key, choices.get(key)


def _add_positionals(commands: dict[str, argparse.ArgumentParser]) -> None:
    sets = commands["data"].add_subparsers()
    for name in SETS:
        _add_keys(sets.add_parser(name, add_help=False), f"data {name}")
    for name in ("audit", "verify", "view", "upload"):
        commands[name].add_argument("files", nargs="*")
    commands["recipes"].add_argument("name", choices=finding.names())
    commands["completion"].add_argument("shell", choices=SHELLS)
    commands["init"].add_argument("folder")
    commands["init"].add_argument("--recipe", nargs="+", choices=finding.names())


def _recipes_and_files(prefix: str, **_: object) -> list[str]:
    files = argcomplete.completers.FilesCompleter(allowednames=["yaml", "yml"])(prefix)
    return [*finding.names(), *files]
