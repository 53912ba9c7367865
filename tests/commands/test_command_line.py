"""One command line: the same list both ways, light where it can be, one line for a mistake.

Broken on purpose and seen red: an import of torch in `vlm_rl/commands/table.py`.
"""

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.places import REPOSITORY
from vlm_rl.commands.command_line import main
from vlm_rl.commands.data import SETS
from vlm_rl.commands.table import COMMANDS
from vlm_rl.show.help import PROGRAMS, page_of

HEAVY = {"torch", "transformers", "lightning", "sympy", "datasets", "jsonargparse", "pandas"}
THERE = [
    name
    for name, entry in COMMANDS.items()
    if (REPOSITORY / entry.module.replace(".", "/")).with_suffix(".py").is_file()
]


def run(*words: str, cwd: Path = REPOSITORY, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vlm_rl", *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"], ["--help=all"]])
def test_first_page_lists_every_command(words: list[str], capsys: pytest.CaptureFixture) -> None:
    main(words)
    page = capsys.readouterr().out
    assert page.startswith("usage: vlm-rl COMMAND")
    for name, entry in COMMANDS.items():
        assert f"  {name} " in page
        assert entry.purpose in page
    assert max(map(len, page.splitlines())) <= 80


@pytest.mark.parametrize("name", THERE)
def test_every_command_has_a_main(name: str) -> None:
    assert callable(import_module(COMMANDS[name].module).main)


def test_script_is_the_module() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"vlm-rl": f"{main.__module__}:{main.__name__}"}
    assert run().stdout.startswith("usage: vlm-rl COMMAND")


def test_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"vlm-rl {version('vlm_rl')}\n"


LIGHT = [
    [],
    ["--version"],
    ["recipes"],
    ["data"],
    ["init", "--help"],
    ["completion", "bash"],
    *([*name.split(), "--help"] for name in PROGRAMS),
    ["fit", "--help=all"],
]


@pytest.mark.parametrize("words", LIGHT, ids=" ".join)
def test_what_needs_no_model_imports_nothing_heavy(words: list[str]) -> None:
    shown = run(*words, PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "vlm_rl.show.screen" in imported
    assert not HEAVY & imported
    assert shown.returncode == 0
    assert shown.stdout.count("\n") >= 1


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_is_the_page(name: str) -> None:
    page = page_of(name, whole=False)
    assert run(*name.split(), "--help").stdout == page
    assert max(map(len, page.splitlines())) <= 100


def test_help_is_short_and_all_is_everything() -> None:
    short, whole = run("fit", "--help").stdout, run("fit", "--help=all").stdout
    assert short.count("\n") < 45
    assert whole == page_of("fit", whole=True)
    assert "--updates.vision_cache_mib" in whole
    assert "--updates.vision_cache_mib" not in short


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["evalute"], "vlm-rl: evalute is not a command; did you mean evaluate?"),
        (["Fit"], "vlm-rl: Fit is not a command; did you mean fit?"),
        (["qqq"], f"vlm-rl: qqq is not a command; there are {', '.join(COMMANDS)}"),
        (
            ["data", "geometry"],
            "vlm-rl data: geometry is not a data set; did you mean geometry3k?",
        ),
        (
            ["recipes", "objective/lusp"],
            "vlm-rl recipes: objective/lusp is not a file, and no recipe has that name; did you "
            "mean objective/luspo?",
        ),
    ],
)
def test_mistake_is_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"{line}\n"


def test_arguments_reach_the_command(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text('{"gold": "40", "prediction": "40.0"}\n')
    done = run("verify", "answers.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "answers.jsonl.verdicts.jsonl").is_file()


def test_working_directory_is_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The console script has its own folder there instead, and own classes would not be found."""
    (tmp_path / "data_of_mine.py").write_text("def main(argv):\n    raise SystemExit(argv)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", os.getcwd())])
    monkeypatch.setitem(COMMANDS, "mine", COMMANDS["fit"]._replace(module="data_of_mine"))
    with pytest.raises(SystemExit) as ended:
        main(["mine", "--x", "1"])
    assert ended.value.code == ["--x", "1"]


def test_every_data_set_can_be_made() -> None:
    scripts = {
        path.stem
        for path in (REPOSITORY / "data_prep").glob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    assert set(SETS) == scripts - {"audit", "measure", "tiny_policy", "study_policies"}


def test_data_set_gets_its_arguments(tmp_path: Path) -> None:
    done = run("data", "synthetic", "--output", "here", "--train", "2", "--val", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "here/train.jsonl").read_text().splitlines()) == 2
