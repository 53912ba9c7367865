"""What a wheel holds is enough to work outside the repository."""

import os
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.support.places import CONFIGS, REPOSITORY, TINY_POLICY
from vlm_rl.recipes import finding
from vlm_rl.show.help import PAGES


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from a copy of what is tracked and unpack it, as pip does."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.rstrip("\0").split("\0"):
        if name.startswith(("vlm_rl/", "configs/", "data_prep/")) or "/" not in name:
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            place = REPOSITORY / name
            if place.is_symlink():
                target.symlink_to(place.readlink())
            elif place.exists():
                target.write_bytes(place.read_bytes())
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([sys.executable, "-m", *build, str(source)], check=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the installed package, which comes before the repository on the path."""
    own = os.environ | {"PYTHONPATH": str(installed), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "vlm_rl", *words],
        cwd=cwd,
        env=own,
        capture_output=True,
        text=True,
        check=False,
    )


def test_wheel_has_every_file_that_is_read(installed: Path) -> None:
    recipes = installed / "vlm_rl/recipes/configs"
    for name in finding.names():
        assert (recipes / f"{name}.yaml").read_bytes() == (CONFIGS / f"{name}.yaml").read_bytes()
        assert not (recipes / f"{name}.yaml").is_symlink()
    for page in PAGES.glob("*.txt"):
        assert (installed / "vlm_rl/show/help" / page.name).read_bytes() == page.read_bytes()
    for part in TINY_POLICY.iterdir():
        assert (installed / "data_prep/warm_start" / part.name).read_bytes() == part.read_bytes()


def test_wheel_has_the_script(installed: Path) -> None:
    [names] = installed.glob("vlm_rl-*.dist-info/entry_points.txt")
    scripts = ConfigParser()
    scripts.read(names)
    assert scripts["console_scripts"]["vlm-rl"] == "vlm_rl.commands.command_line:main"


def test_installed_package_knows_its_recipes(installed: Path, tmp_path: Path) -> None:
    shown = run(installed, tmp_path, "recipes", "quickstart")
    assert shown.stdout == (CONFIGS / "quickstart.yaml").read_text()
    made = run(installed, tmp_path, "init", "mine", "--recipe", "quickstart", "objective/fspo")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "mine/config.yaml").is_file()


@pytest.mark.long
def test_installed_package_trains_a_project(installed: Path, tmp_path: Path) -> None:
    """Nothing of the repository is in the folder: policy and data are found or made."""
    made = "data_prep.synthetic --output data/synthetic --train 32 --val 8"
    train, val = (
        f"[{{path: data/synthetic/{part}.jsonl, made_by: {made}}}]" for part in ("train", "val")
    )
    run(installed, tmp_path, "init", "mine")
    done = run(
        installed,
        tmp_path / "mine",
        *("fit", "--config", "config.yaml", "--steps", "1", "--group_size", "2"),
        *("--data.train", train, "--data.val", val, "--data.prompts_per_step", "2"),
        *("--sampling.max_completion_tokens", "8", "--logging.wandb", "off"),
    )
    assert done.returncode == 0, done.stderr
    assert "data/synthetic/train.jsonl is missing; making it" in done.stderr
    assert (tmp_path / "mine/runs/first/checkpoints/step_1/hf/model.safetensors").is_file()
