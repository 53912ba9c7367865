"""The shape of the code: imports go down only, nothing optional is needed, no bag of helpers.

Mutations tried: an import of vlm_rl.module in vlm_rl/prompts.py -> test_imports_go_down_only;
`import wandb` at the top of vlm_rl/callbacks.py -> test_imports_without_optional_packages.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LAYERS = [
    {
        "torchvision_on_cpu",
        "statistics",
        "records",
        "processes",
        "stages",
        "suggestions",
        "verification",
        "mixture",
    },
    {"linear_logprobs", "prompts", "packing", "advantages", "rows", "weights", "tables"},
    {
        "objectives",
        "rewards",
        "diagnostics",
        "drift",
        "length_fairness",
        "policy",
        "lora",
        "anatomy",
        "activations",
        "memory",
        "shapes",
    },
    {"padding", "handout", "sharding", "zero"},
    {
        "rollout",
        "data",
        "runs",
        "config",
        "config_errors",
        "kl_in_reward",
        "sampling",
        "settings",
        "benchmarks",
        "optimizer",
        "wandb_loggers",
    },
    {"responding", "responses", "judging", "evaluation", "provenance"},
    {"module"},
    {
        "callbacks",
        "checkpointing",
        "endings",
        "heartbeat",
        "preemption",
        "resuming",
        "report",
        "length_report",
        "evaluation_figures",
        "evaluation_plots",
        "evaluation_markdown",
        "evaluation_report",
        "evaluation_screen",
        "comparison",
    },
    {"study_report", "benchmark_runs"},
    {"evaluate", "fit", "ask", "study", "serve", "verify", "hardware"},
]
"""Modules and packages of vlm_rl from the bottom up; one may import from its own layer and below.

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
    return path.relative_to(ROOT / "vlm_rl").parts[0].removesuffix(".py")


def _sources() -> list[Path]:
    return sorted(p for p in (ROOT / "vlm_rl").rglob("*.py") if _unit(p) != "__init__")


def test_every_module_has_a_layer():
    named = set().union(*LAYERS)
    assert {_unit(path) for path in _sources()} == named


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path):
    layer = {unit: level for level, units in enumerate(LAYERS) for unit in units}
    for name in _imports(path):
        top, _, rest = name.partition(".")
        assert top not in FORBIDDEN.get(_unit(path), set()), f"{path} imports {name}"
        unit = rest.partition(".")[0]
        if top == "vlm_rl" and unit in layer:
            assert layer[unit] <= layer[_unit(path)], f"{path} imports upwards: {name}"


def test_only_the_rollout_folder_imports_vllm():
    for path in _sources():
        if _unit(path) != "rollout":
            assert not [n for n in _imports(path) if n.split(".")[0] == "vllm"], path


def test_no_bag_of_helpers():
    names = {path.stem for path in _sources()}
    assert not names & {"utils", "util", "common", "helpers", "misc"}


def test_fit_defines_no_class():
    tree = ast.parse((ROOT / "vlm_rl/fit.py").read_text())
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
    if module.name != "vlm_rl.rollout.weight_receiver":
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
