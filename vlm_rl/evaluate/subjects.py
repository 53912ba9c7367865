"""Who is evaluated: models or a file of responses, each with a folder of its own."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from vlm_rl.config import plain
from vlm_rl.evaluate.asking import Questions, tasks_of
from vlm_rl.evaluation.provenance import problems_digest, weights_digest
from vlm_rl.evaluation.tasks import Task
from vlm_rl.model.policy import check_checkpoint
from vlm_rl.rollout import Engine
from vlm_rl.run import folder as run_folder
from vlm_rl.servers.chat_server import ChatServer

FOLDER = "runs/evaluate"
RESUMABLE_KEYS = ("output", "logging", "lengths", "run_dir")


@dataclass(frozen=True)
class Subject:
    """One model, or one file of responses. In its `config` the model is a single name or None."""

    config: Namespace
    output: Path
    tasks: Sequence[Task]
    settings: dict[str, Any]

    @property
    def missing(self) -> bool:
        """Whether a response is still to be asked for."""
        return any(each.responses.missing for task in self.tasks for each in task.problem_sets)


def models_of(config: Namespace, engine: Engine | ChatServer) -> list[str | None]:
    """Return the models to evaluate, None for a file of responses.

    Have a server name its model if `--model` does not. Raises ValueError if nobody is named, and
    for what the engine cannot use.
    """
    if config.responses:
        return [None]
    if isinstance(engine, ChatServer):
        if (config.prompt.min_pixels, config.prompt.max_pixels) != (None, None):
            raise ValueError(
                "prompt.min_pixels and max_pixels are for a policy; a server resizes images itself "
                "(vLLM: its --mm-processor-kwargs)"
            )
        if config.run_dir:
            raise ValueError("run_dir names checkpoints, and a server has its own; name --model")
        return list(config.model) or [engine.model_name()]
    if config.run_dir:
        return [*before_and_after(Path(config.run_dir))]
    if not config.model:
        raise ValueError(
            "--model PATH is missing (or --run_dir RUN, --responses FILE, --compare A B)"
        )
    return list(config.model)


def before_and_after(run_dir: Path) -> tuple[str, str]:
    """Return what a run began with and its last checkpoint. Raises ValueError without one."""
    last = run_folder.newest_checkpoint(run_dir)
    if last is None or not (run_dir / run_folder.CONFIG).is_file():
        raise ValueError(f"run_dir={run_dir} holds no run with a checkpoint; name --model PATH")
    return run_folder.read_saved(run_dir)["policy"]["path"], str(last.folder / "hf")


def folders_of(config: Namespace, models: Sequence[str | None]) -> list[Path]:
    """Return the folder of each model: of one the output itself, of several those inside it."""
    names = _names([config.responses if model is None else model for model in models])
    if len(models) == 1:
        return [Path(config.output or f"{FOLDER}/{names[0]}")]
    return [Path(config.output or FOLDER, name) for name in names]


def own_folders(config: Namespace, models: Sequence[str | None], held: ExitStack) -> list[Path]:
    """Lock and return the folder of each model. Raises ValueError for one in use."""
    folders = folders_of(config, models)
    if len(models) > 1:
        held.enter_context(run_folder.own(folders[0].parent, "output"))
    for folder in folders:
        held.enter_context(run_folder.own(folder, "output"))
    return folders


def _names(places: Sequence[str]) -> list[str]:
    """Name what is evaluated, for a folder. Raises ValueError for one that is there twice."""
    names = [_name(Path(place)) for place in places]
    twice = [name for name, count in Counter(names).items() if count > 1]
    longer = [
        "-".join(Path(place).parts[-2:]) if name in twice else name
        for place, name in zip(places, names, strict=True)
    ]
    if len({*longer}) < len(longer):
        raise ValueError(f"--model {' '.join(places)}: two have one name; evaluate them apart")
    return longer


def _name(path: Path) -> str:
    if path.name == "hf":  # the checkpoint of a run: runs/NAME/checkpoints/step_N/hf
        return "-".join(path.parts[-4:-1:2])
    return path.stem if path.suffix in (".jsonl", ".json", ".gz") else path.name


def prepare(
    parser: ArgumentParser,
    config: Namespace,
    parts: Namespace,
    places: Sequence[tuple[str | None, Path]],
    questions: Sequence[Questions],
) -> list[Subject]:
    """Return each model as it is evaluated, its folder checked.

    Args:
        places: the models with their folders, which are locked.

    Nothing is written. Raises ValueError for a folder that holds something else and for a
    checkpoint that cannot be loaded.
    """
    subjects = []
    for model, output in places:
        own = config.clone()
        own.model = model
        tasks = tasks_of(own, parts.engine, questions, output)
        inputs = _inputs(own, parts, tasks, output)
        subject = Subject(own, output, tasks, plain(parser, config) | {"model": model} | inputs)
        run_folder.check_same(output, subject.settings, RESUMABLE_KEYS)
        if subject.missing and isinstance(parts.engine, Engine):
            parts.engine.check(parts.sampling)
            parts.engine.check_model(check_checkpoint(own.model))
        subjects.append(subject)
    return subjects


def _inputs(
    config: Namespace, parts: Namespace, tasks: Sequence[Task], output: Path
) -> dict[str, Any]:
    """Return digests of what responses depend on beside the configuration: questions, weights."""
    questions = {
        task.name: problems_digest(task.seen.problems, parts.prompt.instruction(task.benchmark))
        for task in tasks
    }
    weights = weights_digest(config.model) if config.model else None
    kept = output / run_folder.CONFIG
    if weights is None and kept.is_file():  # responses can be judged without the checkpoint
        weights = run_folder.read_saved(output).get("weights")
    return {"questions": questions, "weights": weights}
