"""Choose a command and run it: the console script `vlm-rl` and `python -m vlm_rl`.

PYTHON_ARGCOMPLETE_OK: with argcomplete's global completion the Tab key works at once.
"""

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version

from vlm_rl.commands.table import COMMANDS
from vlm_rl.run.starting import CTRL_C
from vlm_rl.show.screen import say, say_all, warn

HELP = ("-h", "--help", "--help=all", "help")
OPENING = (
    "usage: vlm-rl COMMAND ...     (also: python -m vlm_rl COMMAND ...)",
    "",
    "Reinforcement learning for vision-language models.",
    "",
    "  vlm-rl fit --config quickstart   train a tiny real Qwen2.5-VL here, in minutes",
    "  vlm-rl init my_project           begin a project of your own",
    "",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that `argv` names with the rest of its words.

    Raises SystemExit: with status 2 and one line if there is no such command, and as it does.
    """
    if "_ARGCOMPLETE" in os.environ:
        import_module("vlm_rl.commands.completion").complete()
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["help"]
    if name in HELP:
        say_all(overview())
    elif name == "--version":
        say(f"vlm-rl {version('vlm_rl')}")
    elif name in COMMANDS:
        run(name, rest)
    else:
        close = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"
        warn(f"vlm-rl: {name} is not a command; {hint}")
        raise SystemExit(2)


def overview() -> str:
    """Return the first page: what to type first, and the list of the commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {entry.purpose}" for name, entry in COMMANDS.items()]
    return "\n".join([*OPENING, *lines, "", "`vlm-rl COMMAND --help` explains one of them."])


def run(name: str, argv: Sequence[str]) -> None:
    """Import a command and run it. Raises SystemExit as it does, and with one line for Ctrl-C."""
    if not sys.flags.safe_path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # own classes are found, as by `python -m`
    try:
        import_module(COMMANDS[name].module).main(argv)
    except KeyboardInterrupt:
        warn(f"vlm-rl {name}: stopped by Ctrl-C; run it again, what is there may be half of it")
        raise SystemExit(CTRL_C) from None
