"""Evaluations side by side: two, or several in one table; what was asked just now, or folders."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from jsonargparse import Namespace

from vlm_rl.evaluate.subjects import Subject
from vlm_rl.evaluation.changes_report import CHANGES, QuestionImages, write_changes
from vlm_rl.evaluation.comparison import (
    COMPARISON,
    Comparison,
    compare,
    print_comparison,
    write_comparison,
)
from vlm_rl.evaluation.models import compare_models
from vlm_rl.evaluation.models_report import MODELS, print_models, write_models
from vlm_rl.records import Problem
from vlm_rl.run import folder as run_folder
from vlm_rl.show.screen import say


def compare_folders(config: Namespace, held: ExitStack) -> None:
    """Compare the folders of earlier evaluations as `--compare` says.

    Of two, all is written into the output, by default the second; of several, the comparison of
    each with the first into a folder of the output. Raises ValueError for folders that have no
    benchmark in common.
    """
    folders = [Path(path) for path in config.compare]
    if len(folders) == 2:
        target = Path(config.output or folders[1])
        comparison = compare(*folders, common_only=config.common_only)
        held.enter_context(run_folder.own(target, "output"))
        _write_pair(comparison, folders[0], folders[1], target, None)
        print_comparison(comparison)
        say(f"comparison: {target / COMPARISON}; what changed: {target / CHANGES}")
        return
    if not config.output:
        raise ValueError("--compare of more than two folders needs --output FOLDER for its table")
    named = _by_name(folders)
    held.enter_context(run_folder.own(Path(config.output), "output"))
    inside = {name: Path(config.output, name) for name in named}
    _write_table(named, inside, Path(config.output), config.common_only, None)


def compare_subjects(subjects: Sequence[Subject]) -> None:
    """Set the models that were evaluated just now beside the first one."""
    first = subjects[0]
    problems = {
        (task.name, problem.uid): problem for task in first.tasks for problem in task.seen.problems
    }
    named = {subject.output.name: subject.output for subject in subjects}
    _write_table(named, named, first.output.parent, False, _images_of(problems))


def _images_of(problems: Mapping[tuple[str, str], Problem]) -> QuestionImages:
    return lambda benchmark, uid: problems[benchmark, uid].images


def _write_table(
    folders: Mapping[str, Path],
    targets: Mapping[str, Path],
    output: Path,
    common_only: bool,
    images: QuestionImages | None,
) -> None:
    """Write the table into `output`, and the comparison of each model with the first one into its
    target."""
    models = compare_models(folders, common_only=common_only)
    first = folders[models.names[0]]
    for name, pair in models.pairs.items():
        _write_pair(pair, first, folders[name], targets[name], images)
    write_models(models, output)
    print_models(models)
    for name in models.pairs:
        say(f"{name}: {targets[name] / COMPARISON}; what changed: {targets[name] / CHANGES}")
    say(f"table: {output / MODELS}")


def _write_pair(
    pair: Comparison, first: Path, second: Path, target: Path, images: QuestionImages | None
) -> None:
    write_comparison(pair, target)
    write_changes(first, second, target, images)


def _by_name(folders: Sequence[Path]) -> dict[str, Path]:
    """Name folders by their last part, or by the last two where that is not enough. Raises
    ValueError for one that is there twice."""
    for parts in (1, 2, 3):
        named = {"-".join(path.resolve().parts[-parts:]): path for path in folders}
        if len(named) == len(folders):
            return named
    raise ValueError(f"--compare {' '.join(map(str, folders))}: one folder is named twice")
