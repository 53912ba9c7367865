"""`vlm-rl init` makes a project that parses, with one reward of its own and nothing else changed.

Broken on purpose and seen red: the weight of the own term above 0.
"""

from pathlib import Path

import pytest

from tests.support.documented import blocks
from tests.support.places import CONFIGS
from vlm_rl.commands.command_line import main
from vlm_rl.config import instantiate, parse, plain
from vlm_rl.fit import build_parser
from vlm_rl.run.folder import differences

RUNS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("recipe", RUNS)
def test_project_differs_from_its_recipe_in_folder_and_own_reward(recipe: str) -> None:
    main(["init", "mine", "--recipe", recipe])
    parser = build_parser()
    theirs, ours = (
        plain(parser, parse(parser, ["--config", config]))
        for config in (recipe, "mine/config.yaml")
    )
    changed = {line.partition(":")[0] for line in differences(theirs, ours)}
    assert {key.partition(".own")[0] for key in changed} == {"reward.terms", "run_dir"}
    assert set(ours["reward"]["terms"]) == {*theirs["reward"]["terms"], "own"}


def test_own_reward_is_found_beside_the_configuration() -> None:
    main(["init", "mine"])
    parser = build_parser()
    parts = instantiate(parser, parse(parser, ["--config", "mine/config.yaml"]))
    with parts.reward:
        assert parts.reward.terms["own"].weight == 0


def test_one_name_is_folder_and_recipe(elsewhere: Path) -> None:
    main(["init", "luspo_qwen2_5_vl_7b_geometry3k"])
    text = (elsewhere / "luspo_qwen2_5_vl_7b_geometry3k/config.yaml").read_text()
    assert "path: Qwen/Qwen2.5-VL-7B-Instruct" in text


def test_readme_has_the_command_with_all_files(elsewhere: Path, capsys) -> None:
    main(["init", "mine", "--recipe", "quickstart", "objective/fspo", "length/cosine"])
    command = "vlm-rl fit --config config.yaml --config fspo.yaml --config cosine.yaml"
    assert f"next: cd mine && {command}" in capsys.readouterr().out
    folder = elsewhere / "mine"
    first = blocks((folder / "README.md").read_text(), "bash")[0]
    assert first == f"{command}\n"
    names = ["README.md", "config.yaml", "cosine.yaml", "fspo.yaml", "rewards.py"]
    assert sorted(path.name for path in folder.iterdir()) == names
    files = [word for word in command.split() if word.endswith(".yaml")]
    config = parse(build_parser(), [f"--config=mine/{name}" for name in files])
    assert config.objective.class_path == "vlm_rl.objectives.FSPO"
    assert {"own", "accuracy"} <= set(config.reward.terms)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["full"], "vlm-rl init: full is there already; name another folder"),
        (
            ["mine", "--recipe", "objective/fspo"],
            "vlm-rl init: the recipe objective/fspo is not a whole run; name one before it, "
            "as in --recipe quickstart objective/fspo",
        ),
        (
            ["mine", "--recipe", "quickstrat"],
            "vlm-rl init: quickstrat is not a file, and no recipe has that name; did you mean "
            "quickstart?",
        ),
        (
            ["mine", "--recipe", "quickstart", "objective/fspo", "objective/fspo"],
            "vlm-rl init: --recipe quickstart objective/fspo objective/fspo: two would have one "
            "name; leave one out",
        ),
    ],
)
def test_refusal_writes_nothing(elsewhere: Path, words: list[str], line: str, capsys) -> None:
    (elsewhere / "full").mkdir()
    (elsewhere / "full/config.yaml").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        main(["init", *words])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"{line}\n"
    assert [path.name for path in elsewhere.iterdir()] == ["full"]
    assert (elsewhere / "full/config.yaml").read_text() == "mine"
