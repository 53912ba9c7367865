"""Recipes are found by name from anywhere, and what they name with them.

Broken on purpose and seen red: a folder taken for a configuration.
"""

import os
import re
from pathlib import Path

import pytest

from tests.support.places import CONFIGS, REPOSITORY, TINY_POLICY
from vlm_rl.config import parse
from vlm_rl.fit import build_parser
from vlm_rl.recipes import finding

OBJECTIVES = sorted(path.stem for path in (CONFIGS / "objective").glob("*.yaml"))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_file_has_a_name() -> None:
    files = {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml")}
    assert {f"{name}.yaml" for name in finding.names()} == files
    assert len(files) > 50


@pytest.mark.parametrize(
    "given",
    [
        *("objective/fspo", "objective/FSPO", "objective/fspo.yaml"),
        *("configs/objective/fspo.yaml", "./configs/objective/fspo.yaml", "configs/objective/fspo"),
    ],
)
def test_recipe_is_found_from_anywhere(elsewhere: Path, given: str) -> None:
    assert os.path.samefile(finding.find(given), CONFIGS / "objective/fspo.yaml")


def test_file_wins_over_a_name_and_a_folder_does_not(elsewhere: Path) -> None:
    (elsewhere / "quickstart").mkdir()
    assert os.path.samefile(finding.find("quickstart"), CONFIGS / "quickstart.yaml")
    (elsewhere / "quickstart").rmdir()
    (elsewhere / "quickstart").write_text("steps: 3\n")
    assert finding.find("quickstart") == "quickstart"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            "quickstrat",
            "quickstrat is not a file, and no recipe has that name; did you mean quickstart?",
        ),
        (
            "fspo",
            "fspo is not a file, and no recipe has that name; did you mean objective/fspo?",
        ),
        (
            "luspo_qwen3",
            "luspo_qwen3 is not a file, and no recipe has that name; there are "
            "luspo_qwen3_5_4b_geometry3k, luspo_qwen3_vl_30b_a3b_geometry3k",
        ),
        (
            "mine.yml",
            "mine.yml is not a file, and no recipe has that name; did you mean mine.yaml?",
        ),
        (
            "my_project",
            "my_project is a folder, and no recipe has that name; `vlm-rl recipes` lists them",
        ),
    ],
)
def test_wrong_name_is_answered_with_the_right_one(elsewhere: Path, given: str, line: str) -> None:
    (elsewhere / "my_project").mkdir()
    (elsewhere / "mine.yaml").write_text("steps: 3\n")
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        finding.find(given)


def test_command_line_names_recipes_and_the_shipped_policy(elsewhere: Path) -> None:
    """As an installed package has it: neither `configs` nor `data_prep` is in the folder."""
    config = parse(
        build_parser(),
        ["--config", "quickstart", "--config=objective/fspo", "--run_dir", "mine"],
    )
    assert config.objective.class_path == "vlm_rl.objectives.FSPO"
    assert os.path.samefile(config.policy.path, TINY_POLICY)


def test_shipped_path_stays_as_it_is_where_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert finding.shipped("data_prep/warm_start") == "data_prep/warm_start"


@pytest.mark.parametrize("path", ["Qwen/Qwen2.5-VL-3B-Instruct", "data_prep/none", "/x/warm_start"])
def test_path_of_something_else_is_left_alone(elsewhere: Path, path: str) -> None:
    assert finding.shipped(path) == path
