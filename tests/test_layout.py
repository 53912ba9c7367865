"""The shape of the code: imports go down only, nothing optional is needed, no bag of helpers.

Mutations tried: an import of vlm_rl.training.module in vlm_rl/data/prompts.py ->
test_imports_go_down_only; `import wandb` at the top of vlm_rl/run/progress.py ->
test_imports_without_optional_packages; a second `class Estimate` -> test_no_name_has_two_meanings.
"""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.places import REPOSITORY

LAYERS = [
    {"torchvision_on_cpu", "show", "records", "config", "errors", "parts", "ranks"},
    {"verification", "model", "advantages"},
    {"data", "objectives", "distributed", "memory"},
    {"metrics", "rewards", "rollout"},
    {"training", "evaluation"},
    {"run"},
    {"fit", "evaluate", "study", "verify", "serve", "ask", "hardware"},
]
"""Files and folders of vlm_rl from the bottom up; one may import from its own layer and below.

The objectives see neither Lightning nor transformers, rewards and verification see no policy, and
only entry points (the last layer) read a configuration.
"""

FORBIDDEN = {
    "objectives": {"lightning", "transformers"},
    "advantages": {"lightning", "transformers"},
    "verification": {"lightning", "transformers", "torch"},
    "rewards": {"lightning", "transformers"},
    "records": {"lightning", "transformers"},
}


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _unit(path: Path) -> str:
    return path.relative_to(REPOSITORY / "vlm_rl").parts[0].removesuffix(".py")


def _sources() -> list[Path]:
    return sorted(p for p in (REPOSITORY / "vlm_rl").rglob("*.py") if _unit(p) != "__init__")


def test_the_package_shows_at_most_14_files():
    assert len(list((REPOSITORY / "vlm_rl").glob("*.py"))) <= 14


def test_every_module_has_a_layer():
    named = set().union(*LAYERS)
    assert {_unit(path) for path in _sources()} == named


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_go_down_only(path):
    layer = {unit: level for level, units in enumerate(LAYERS) for unit in units}
    for name in _imports(path):
        top, _, rest = name.partition(".")
        assert top not in FORBIDDEN.get(_unit(path), set()), f"{path} imports {name}"
        unit = rest.partition(".")[0]
        if top == "vlm_rl" and unit in layer:
            assert layer[unit] <= layer[_unit(path)], f"{path} imports upwards: {name}"


def test_only_its_own_folder_imports_vllm():
    for path in _sources():
        if "rollout/vllm/" not in path.as_posix():
            assert not [n for n in _imports(path) if n.split(".")[0] == "vllm"], path


def test_every_folder_says_what_it_answers():
    for folder in {path.parent for path in _sources()}:
        docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert docstring, f"{folder}/__init__.py has no docstring"


def test_no_name_has_two_meanings():
    """A class or alias at the top of a module is defined once in the package."""
    places = defaultdict(list)
    for path in _sources():
        for node in ast.parse(path.read_text()).body:
            named = node.targets if isinstance(node, ast.Assign) else [getattr(node, "name", None)]
            for target in named:
                name = target if isinstance(node, ast.ClassDef) else getattr(target, "id", "")
                # an alias of a type is written like a class; constants and functions are local
                if name and name[0].isupper() and not name.isupper() and len(name) > 1:
                    places[name].append(path.relative_to(REPOSITORY).as_posix())
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert not twice, "\n".join(f"{name}: {where}" for name, where in twice.items())


def test_no_bag_of_helpers():
    names = {path.stem for path in _sources()}
    assert not names & {"utils", "util", "common", "helpers", "misc"}


def test_fit_defines_no_class():
    tree = ast.parse((REPOSITORY / "vlm_rl/fit.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def test_imports_without_optional_packages():
    """Everything imports where vllm, deepspeed, wandb and peft are not installed, but for what runs
    inside vLLM only."""
    program = """
import importlib, pkgutil, sys
for name in ("vllm", "deepspeed", "wandb", "peft"):
    sys.modules[name] = None
import vlm_rl
for module in pkgutil.walk_packages(vlm_rl.__path__, "vlm_rl."):
    if module.name != "vlm_rl.rollout.vllm.weight_receiver":
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
