"""Make the folder of a project of your own: a configuration, a reward file and a README.

    vlm-rl init my_project
    vlm-rl init geometry --recipe luspo_qwen2_5_vl_7b_geometry3k objective/fspo

The first recipe is the run, by default the quickstart. Others are written beside it, and the
command in the README merges them over it. A recipe's name alone is both: `vlm-rl init quickstart`.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from vlm_rl.commands.project import README, REWARDS
from vlm_rl.disk.files import Unwritable, write_text
from vlm_rl.recipes import finding
from vlm_rl.show.markdown import Markdown
from vlm_rl.show.screen import say, warn

CONFIG = "config.yaml"
RUN_DIR = "runs/first"
OWN_TERM = """\
    own:  # in rewards.py; it counts once its weight is above 0
      class_path: vlm_rl.rewards.Function
      init_args: {function: own, file: rewards.py, weight: 0.0}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Make the folder; print what to do next. Raises SystemExit with status 2 and one line."""
    parser = argparse.ArgumentParser(
        prog="vlm-rl init",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="NAME", help="the folder to make")
    parser.add_argument("--recipe", nargs="+", metavar="NAME", help="`vlm-rl recipes` lists them")
    given = parser.parse_args(argv)
    try:
        folder, recipes = _chosen(given.folder, given.recipe)
        command = write_project(folder, recipes)
    except (ValueError, OSError, Unwritable) as error:
        warn(f"vlm-rl init: {error}")
        raise SystemExit(2) from error
    say(f"made {folder} with {', '.join(sorted(path.name for path in folder.iterdir()))}")
    say(f"next: cd {folder} && {command}")


def write_project(folder: Path, recipes: Sequence[str]) -> str:
    """Write the files of a project; return the command that trains.

    Raises ValueError for a folder that holds something, for a recipe that there is not, and for a
    first one that is not a run; then nothing is written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already; name another folder")
    first, *overlays = [Path(finding.find(name)) for name in recipes]
    config = own_config(first.read_text(encoding="utf-8"), recipes[0])
    names = [CONFIG, *(path.name for path in overlays)]
    if len(set(names)) < len(names):
        raise ValueError(f"--recipe {' '.join(recipes)}: two would have one name; leave one out")
    command = "vlm-rl fit " + " ".join(f"--config {name}" for name in names)
    write_text(folder / CONFIG, config)
    for path in overlays:
        write_text(folder / path.name, path.read_text(encoding="utf-8"))
    write_text(folder / "rewards.py", REWARDS)
    readme = Markdown(README).format(
        name=folder.resolve().name, recipe=recipes[0], command=command, run_dir=RUN_DIR
    )
    write_text(folder / "README.md", readme)
    return command


def own_config(recipe: str, name: str) -> str:
    """Return the text of a recipe with a run folder and a reward of the project's own.

    Raises ValueError if it is not the configuration of a run.
    """
    header, found, body = recipe.partition("\nrun_dir: ")
    text, count = re.subn(r"(?m)^(  terms:.*\n)", rf"\g<1>{OWN_TERM}", body, count=1)
    if not found or not count:
        raise ValueError(
            f"the recipe {name} is not a whole run; name one before it, as in --recipe quickstart "
            f"{name}"
        )
    begun = f"# Begun from the recipe {name}, which says of itself:\n#"
    return "\n".join([begun, header, f"run_dir: {RUN_DIR}", text.partition("\n")[2]])


def _chosen(name: str, recipes: Sequence[str] | None) -> tuple[Path, Sequence[str]]:
    """Return the folder and the recipes; one name may say both."""
    if recipes is not None:
        return Path(name), recipes
    if name in finding.names():
        return Path(Path(name).name), [name]
    return Path(name), ["quickstart"]
