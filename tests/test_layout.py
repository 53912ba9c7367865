"""The shape of the code: imports go down only, nothing optional is needed, no bag of helpers.

Mutations tried: an import of vlm_rl.training.module in vlm_rl/data/prompts.py ->
test_imports_go_down_only; `import wandb` at the top of vlm_rl/run/progress.py ->
test_imports_without_optional_packages; a second `class Estimate` -> test_no_name_has_two_meanings;
each line of CLOCKS in a test -> test_no_test_has_a_limit_on_the_clock.
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
    {
        *("torchvision_on_cpu", "show", "disk", "records", "config", "errors", "parts", "ranks"),
        *("processes", "recipes"),
    },
    {"verification", "model", "advantages"},
    {"data", "objectives", "distributed", "memory", "servers"},
    {"metrics", "rewards", "rollout"},
    {"shaping", "edits"},
    {"training", "evaluation"},
    {"trackers"},
    {"run", "health"},  # the command of `health` reads what a run has written
    {"fit", "evaluate", "study", "verify", "serve", "ask", "hardware", "preflight"},
    {"view", "upload"},
    {"commands"},
    {"__main__"},
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
    "shaping": {"lightning", "transformers"},
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


CLOCK = {"monotonic", "perf_counter", "time", "monotonic_ns", "perf_counter_ns", "time_ns"}
MAY_USE_THE_CLOCK = {
    "tests/support/patience.py": "the only place that judges how long something takes",
    "tests/processes/test_stopwatch.py::share": "the clock is what is measured",
    "tests/rollout/test_watchdog.py::test_starved_process_is_not_silent": "at least so long",
    "tests/verification/test_pool.py::test_starved_process_is_not_given_up": "at least so long",
    "tests/verification/test_fuzz.py::_watch": "a pause between two samples",
    "tests/support/false_server.py::FalseServer::drip": "a pause between two bytes",
    "tests/support/judge_server.py::_Handler::_wait": "a pause between two bytes",
    "tests/support/watching.py::Scales::_watch": "a pause between two samples",
    "tests/evaluation/test_report.py::test_failed_checks_are_counted_and_in_no_accuracy": "a count",
    "::main": "prints how long a report took",
}
"""Files and functions, with the reason."""


def _clocks(tree: ast.AST, place: str) -> Iterator[str]:
    """Yield where a limit in seconds is given or the clock is read, but for places that may."""
    if any(place.endswith(allowed) for allowed in MAY_USE_THE_CLOCK):
        return
    for node in ast.iter_child_nodes(tree):
        named = isinstance(node, ast.FunctionDef | ast.ClassDef)
        inside = f"{place}::{node.name}" if named else place
        if isinstance(node, ast.Call) and _is_limited(node):
            yield f"{inside}, line {node.lineno}: {ast.unparse(node)}"
        yield from _clocks(node, inside)


def _is_limited(call: ast.Call) -> bool:
    """Whether a call takes a limit in seconds, sets one, or reads the clock."""
    called, _, name = ast.unparse(call.func).rpartition(".")
    limits = [keyword.value for keyword in call.keywords if keyword.arg == "timeout"]
    if name in ("join", "wait", "result"):
        limits += [a for a in call.args if isinstance(a, ast.Constant)]
    given = any(not isinstance(limit, ast.Constant) or _is_number(limit.value) for limit in limits)
    sets = name == "dump_traceback_later" or (called, name) == ("pytest.mark", "timeout")
    return given or sets or (called in ("", "time") and name in CLOCK)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


CLOCKS = """
subprocess.run(command, timeout=60)
thread.join(timeout=SECONDS)
done.wait(2.5)
future.result(3)
threading.Barrier(2, timeout=10)
assert time.monotonic() < end
began = perf_counter()
faulthandler.dump_traceback_later(240, exit=True)
pytest.mark.timeout(600)
"""


@pytest.mark.parametrize("line", CLOCKS.strip().splitlines())
def test_limit_on_the_clock_is_seen(line):
    assert list(_clocks(ast.parse(f"def test_it():\n    {line}"), "tests/test_it.py"))


def test_no_test_has_a_limit_on_the_clock():
    """A busy machine would turn it red. Wait without a limit, as a test that hangs is ended anyway,
    or by tests/support/patience.py."""
    found = [
        clock
        for path in sorted((REPOSITORY / "tests").rglob("*.py"))
        for clock in _clocks(ast.parse(path.read_text()), path.relative_to(REPOSITORY).as_posix())
    ]
    assert not found, "\n".join(found)


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
