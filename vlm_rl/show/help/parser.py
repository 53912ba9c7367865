"""Parsers whose `--help` has the whole docstrings of what the keys configure."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter


class DocstringFormatter(DefaultHelpFormatter):
    """Keeps the lines of a description: docstrings hold commands, and are wrapped already."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join((indent + line).rstrip() for line in text.strip().splitlines())


def new_parser(name: str, text: str | None, words: str = "[--KEY VALUE ...]") -> ArgumentParser:
    """Return the parser of a program, which raises for what it cannot parse.

    `text` says what it does, `words` what its usage shows after its name.
    """
    return ArgumentParser(
        prog=f"vlm_rl.{name}",
        usage=f"vlm-rl {name} {words}",
        description=text,
        formatter_class=DocstringFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )


def explain_groups(
    parser: ArgumentParser, owners: Mapping[str, type | Callable[..., Any]] | None = None
) -> ArgumentParser:
    """Give each group of keys its name as a title, and below it what its class says of them.

    The parser knows the classes; `owners` names what else has arguments, by group. What others
    wrote stays short.
    """
    known: dict[str, Any] = {
        action.dest: getattr(action, "basetype", None) for action in parser._actions
    }
    known |= owners or {}
    for name, group in (parser.groups or {}).items():
        owner = known.get(name)
        ours = owner is not None and owner.__module__.startswith("vlm_rl.")
        group.description = inspect.getdoc(owner) if ours else f"{group.title}".rstrip(";:")
        group.title = name
    return parser


def explain_arguments(parser: ArgumentParser, function: Callable[..., Any]) -> ArgumentParser:
    """Say of the arguments of a function, which were added last, all that its docstring says."""
    group = parser._action_groups[-1]
    group.title, group.description = "arguments", inspect.getdoc(function)
    return parser
