"""The pages themselves: size, opening, navigation, and that no key and no metric is left out.

Broken on purpose, one at a time, each seen red: a page outside the navigation; a row taken out of
metrics.md; a group of keys left out by the hook; a README above its limit; a message or a file
that does not exist.
"""

import ast
import csv
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.support.documented import DOCS, PAGES
from tests.support.places import REPOSITORY
from tests.support.run_helpers import QUICKSTART
from vlm_rl.errors import choices, hint_of, parameters
from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.fit import build_parser, fit
from vlm_rl.objectives import Regularizer

TASKS = sorted(DOCS.glob("*.md"))
OPENING_LINES = 12
PRESETS = REPOSITORY / "vlm_rl/objectives/presets"


def test_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_bytes()) <= 10_000


def test_readme_says_at_once_what_has_not_run() -> None:
    first_screen = (REPOSITORY / "README.md").read_text().splitlines()[:12]
    assert "Nothing has run on a GPU yet" in "\n".join(first_screen)


def test_pages_count_objectives_and_benchmarks_as_they_are() -> None:
    presets = [path for path in PRESETS.glob("*.py") if path.stem not in ("__init__", "preset")]
    for name in ("README.md", "CHANGELOG.md"):
        text = (REPOSITORY / name).read_text()
        assert f"{len(presets)} objectives" in text
        assert f"{len(BENCHMARKS)} benchmarks" in text


@pytest.mark.parametrize("page", TASKS, ids=lambda page: page.name)
def test_pages_open_with_a_command(page: Path) -> None:
    opening = page.read_text().splitlines()[:OPENING_LINES]
    assert opening[0].startswith("# ")
    assert "```bash" in opening


def test_every_page_is_in_the_navigation() -> None:
    text = re.sub(r"!!python\S+", "", (REPOSITORY / "mkdocs.yml").read_text())
    listed = set(_leaves(yaml.safe_load(text)["nav"]))
    assert listed == {page.name for page in TASKS}


def _leaves(node: Any) -> list[str]:
    if isinstance(node, str):
        return [node]
    return [
        leaf
        for part in (node.values() if isinstance(node, dict) else node)
        for leaf in _leaves(part)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    folders = "vlm_rl|data_prep|configs|measurements|tests|docs"
    named = re.findall(rf"`((?:{folders})/[\w./]*)`", page.read_text())
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hook", DOCS / "hooks" / "configuration.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_configuration_has_every_key(hook: ModuleType) -> None:
    page = hook.on_page_markdown((DOCS / "configuration.md").read_text(), page=None)
    assert "<!-- made" not in page
    defaults = build_parser().get_defaults(skip_validation=True)
    keys = set(defaults.keys()) - {"config"}
    assert len(keys) > 60
    assert {key for key in keys if f"| `{key}` |" not in page} == set()


def test_configuration_has_every_class_with_its_arguments(hook: ModuleType) -> None:
    page = hook.on_page_markdown((DOCS / "configuration.md").read_text(), page=None)
    parser = build_parser()
    for key in hook.FAMILIES:
        for name, cls in choices(hint_of(parser, key)).items():
            if not cls.__module__.startswith("vlm_rl."):
                continue  # of a test that ran before
            section = page.partition(f"#### {name}\n")[2].partition("\n#### ")[0]
            for argument in parameters(cls):
                assert f"| `{argument}` |" in section or argument == "kwargs", (name, argument)


@pytest.fixture(scope="module")
def columns(
    policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Return the columns of metrics.csv of a short run in which most things happen."""
    run_dir = tmp_path_factory.mktemp("documented") / "run"
    terms = {
        "accuracy": {"class_path": "tests.support.run_helpers.FirstTokenEven"},
        "even": {"class_path": "tests.support.run_helpers.EvenTokens"},
    }
    regularizers = [
        {"class_path": "vlm_rl.objectives.KL", "init_args": {"kl_coef": 0.01}},
        {"class_path": "vlm_rl.objectives.EntropyBonus", "init_args": {"entropy_coef": 0.01}},
    ]
    values = {
        "run_dir": str(run_dir),
        "steps": 2,
        "group_size": 4,
        "policy.path": str(policy_folder),
        "data.train": [{"path": str(data_folder / "train.jsonl")}],
        "data.val": [{"path": str(data_folder / "val.jsonl")}],
        "data.prompts_per_step": 4,
        "sampling.max_completion_tokens": 8,
        "reward.terms": terms,
        "objective.init_args.regularizers": regularizers,
        "dynamic_sampling": "vlm_rl.training.MixedVerdicts",
        "validation.every_n_steps": 2,
        "logging.wandb": "off",
    }
    options = [f"--{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in values.items()]
    fit(["--config", str(QUICKSTART), *options])
    with (run_dir / "metrics.csv").open(newline="") as file:
        return next(csv.reader(file))


def documented() -> list[re.Pattern[str]]:
    """Return a pattern for each metric of the page: `<n>` is a number, `<...>` a name."""
    rows = re.findall(r"^\| (`.+?) \|", (DOCS / "metrics.md").read_text(), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    patterns = [re.sub(r"<\w+>", r"[^/]+", name.replace("<n>", r"\d+")) for name in names]
    return [re.compile(pattern) for pattern in patterns]


def test_every_metric_of_a_run_is_documented(columns: list[str]) -> None:
    known = documented()
    assert len(columns) > 100
    assert [name for name in columns if not any(p.fullmatch(name) for p in known)] == []


def test_every_regularizer_is_documented() -> None:
    names = {f"policy/{cls.name}" for cls in choices(Regularizer).values() if hasattr(cls, "name")}
    page = (DOCS / "metrics.md").read_text()
    assert {name for name in names if f"`{name}`" not in page} == set()


def test_quoted_messages_are_those_of_the_code() -> None:
    """Each part of a message in the column of symptoms, cut at its dots, is in a string."""
    nodes = [
        node
        for path in (REPOSITORY / "vlm_rl").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
    ]
    strings = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    page = (DOCS / "troubleshooting.md").read_text()
    messages = re.findall(r"^\| `([^`]+ [^`]+)`", page, re.MULTILINE)
    parts = {part.strip() for message in messages for part in message.split("...")} - {"", "?"}
    assert len(parts) > 10
    assert {part for part in parts if not any(part in string for string in strings)} == set()
