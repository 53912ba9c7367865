"""Strings reach people through `vlm_rl/show` only, so that none can go around what it does to them.

Broken on purpose, each seen red: a `print`, an import of rich, a write to standard error, a logger
of one's own, JSON with readable characters, a figure saved, a table of W&B and an f-string as
Markdown, each put into vlm_rl/run/report.py.
"""

import ast
from collections.abc import Callable, Iterator

import pytest

from tests.support.places import REPOSITORY

SOURCES = {
    path.relative_to(REPOSITORY).as_posix(): ast.parse(path.read_text())
    for folder in ("vlm_rl", "data_prep")
    for path in (REPOSITORY / folder).rglob("*.py")
}
PROTOCOLS = {
    "vlm_rl/verification/checker.py": "answers over a pipe",
    "vlm_rl/data/template_process.py": "answers over a pipe, in what transformers renders in",
    "vlm_rl/rollout/watchdog.py": "stacks by faulthandler",
    "vlm_rl/serve.py": "a flush",
    "vlm_rl/show/help/__init__.py": "a flush, and what a pipe that has ended does not get",
}
"""Files that use standard streams for something else than text for people."""


def _calls(tree: ast.AST, *names: str) -> Iterator[ast.Call]:
    """Yield the calls of functions or methods of these names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in names:
            yield node


def _attributes(tree: ast.AST, *names: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (name := ast.unparse(node)) in names:
            yield name


def _imports(tree: ast.AST, *names: str) -> Iterator[str]:
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        yield from (module for module in modules if module.split(".")[0] in names)


def _keywords(tree: ast.AST, name: str) -> Iterator[ast.keyword]:
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == name:
            yield node


def _not_constant(tree: ast.AST, *names: str) -> Iterator[str]:
    """Yield the calls whose first argument is not text of the program itself."""
    for call in _calls(tree, *names):
        [argument] = call.args
        is_named_constant = isinstance(argument, ast.Name) and argument.id.isupper()
        if not isinstance(argument, ast.Constant) and not is_named_constant:
            yield ast.unparse(call)


STREAMS = ("sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__")
OBJECTIVES = "vlm_rl/objectives/"
TRACKERS = "vlm_rl/trackers/"
GATES: dict[str, tuple[Callable[[ast.AST], Iterator[ast.AST | str]], str]] = {
    "print": (lambda tree: _calls(tree, "print"), "vlm_rl/show/screen.py"),
    "rich": (lambda tree: _imports(tree, "rich"), "vlm_rl/show/screen.py"),
    "streams": (
        lambda tree: _attributes(tree, "sys.stdout", "sys.stderr"),
        "vlm_rl/show/screen.py",
    ),
    "logger": (lambda tree: _imports(tree, "logging"), "vlm_rl/show/log.py"),
    "warning": (lambda tree: _attributes(tree, "warnings.warn"), OBJECTIVES + "soundness.py"),
    "json": (lambda tree: _keywords(tree, "ensure_ascii"), "vlm_rl/show/json_text.py"),
    "figures": (lambda tree: _calls(tree, "savefig"), "vlm_rl/show/figures.py"),
    "pyplot": (lambda tree: _imports(tree, "matplotlib"), "vlm_rl/show/figures.py"),
    "wandb": (
        lambda tree: _attributes(tree, "wandb.Table", "wandb.Html"),
        f"{TRACKERS}wandb_table.py",
    ),
    "texts": (lambda tree: _calls(tree, "log_table", "log_text"), f"{TRACKERS}mlflow.py"),
    "markup": (lambda tree: _not_constant(tree, "Markdown", "Markup"), "vlm_rl/show/markdown.py"),
}
ALLOWED = {
    ("streams", "vlm_rl/run/terminal.py"): "replaces them, and prints nothing",
    ("logger", "vlm_rl/fit.py"): "sets the levels of Lightning's own",
    ("warning", OBJECTIVES + "regularizers.py"): "as in soundness, numbers of a configuration",
    ("markup", "vlm_rl/show/html.py"): "files of the program, and what Markdown is rendered to",
    ("pyplot", "data_prep/audit_page.py"): "formatters of ticks",
}


@pytest.mark.parametrize("gate", GATES)
def test_text_goes_through_its_gate(gate: str) -> None:
    find, owner = GATES[gate]
    around = [
        f"{source}: {text}"
        for source, tree in SOURCES.items()
        for found in find(tree)
        # `print` of a screen takes tables; its strings are text too
        if not (text := ast.unparse(found) if isinstance(found, ast.AST) else found).startswith(
            "screen.print("
        )
        if source != owner and (gate, source) not in ALLOWED
        if not (gate in ("streams", "json") and source in PROTOCOLS)
    ]
    assert not around, f"these go around {owner}: " + "; ".join(around)


def test_every_gate_and_exception_is_in_use() -> None:
    assert {*PROTOCOLS, *(source for _, source in ALLOWED)} <= SOURCES.keys()
    for gate, (find, owner) in GATES.items():
        assert [*find(SOURCES[owner])] or gate == "wandb log", f"nothing in {owner} is a {gate}"
    for gate, source in ALLOWED:
        assert [*GATES[gate][0](SOURCES[source])], f"{source} needs no exception for {gate}"
