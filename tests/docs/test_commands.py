"""Every command in README.md and docs/ is one that its program accepts.

Broken on purpose, one at a time, each seen red: a key that no parser has; a module that does not
exist; a make target that does not exist; a class path that cannot be imported; arguments that an
earlier class would leave behind; a command in an indented block.
"""

import argparse
import importlib
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonargparse
import pytest

from tests.support.documented import DOCS, PAGES, Command, blocks, commands
from tests.support.places import REPOSITORY
from vlm_rl.config import parse

COMMANDS = commands()
MODULES = [command for command in COMMANDS if command.words[:2] == ("python", "-m")]
TOOLS = (
    *("pip", "column", ".venv/bin/pytest", "export", "grep", "eval", "cd"),
    *("docker", "sbatch", "bash"),
)


OVERVIEWS = (("vlm-rl",), ("vlm-rl", "--version"), ("vlm-rl", "--help"))


class Parsed(Exception):
    """The program's own parser has accepted the command."""


@pytest.fixture(scope="module", autouse=True)
def own_reward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Write the example of rewards.md into the file that its text names."""
    folder = tmp_path_factory.mktemp("own")
    code = "\n".join(blocks((DOCS / "rewards.md").read_text(), "python"))
    (folder / "my_rewards.py").write_text(code)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("command", MODULES, ids=lambda command: f"{command.page}: {command.line}")
def test_python_commands_parse(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, arguments = command.words[2], list(command.words[3:])
    monkeypatch.chdir(REPOSITORY)
    if arguments in (["--help"], ["--help=all"]):
        with pytest.raises(SystemExit) as ended:
            _run(name, arguments, monkeypatch)
        assert ended.value.code == 0
        return
    module = importlib.import_module(name)
    if name.startswith("vlm_rl.") and hasattr(module, "build_parser") and name != "vlm_rl.serve":
        parse(module.build_parser(), [word for word in arguments if word != "--print_config"])
        return
    for parser in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
        monkeypatch.setattr(parser, "parse_args", _then_stop(parser.parse_args))
    has_script = not name.startswith("vlm_rl.commands.")
    with pytest.raises(Parsed):
        _run(name, arguments, monkeypatch) if has_script else module.main(arguments)


def _run(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_module(name, run_name="__main__")


def _then_stop(parse_args: Callable[..., Any]) -> Callable[..., Any]:
    def parse_and_stop(*args: Any, **kwargs: Any) -> Any:
        raise Parsed(parse_args(*args, **kwargs))

    return parse_and_stop


def test_make_targets_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    made = [command for command in COMMANDS if command.words[0] == "make"]
    assert made
    for command in made:
        assert set(command.words[1:]) <= targets, f"{command.page}: {command.line}"


def test_other_commands_are_tools_and_their_files_exist() -> None:
    for command in COMMANDS:
        place = f"{command.page}: {command.line}"
        assert command.words[0] in ("python", "make", *TOOLS) or command.words in OVERVIEWS, place
        for word in command.words[1:]:
            if word.startswith(("tests/", "configs/", "data_prep/", "measurements/")):
                assert (REPOSITORY / word).exists(), f"{command.page}: {command.line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_in_fences(page: Path) -> None:
    """A command in an indented block would not be checked."""
    fenced = "\n".join(blocks(page.read_text(), "bash")).splitlines()
    indented = re.findall(r"^ {4}(?:python|make|torchrun|srun|pip) .*$", page.read_text(), re.M)
    assert set(indented) <= set(fenced)
