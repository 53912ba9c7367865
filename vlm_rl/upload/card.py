"""The model card of a checkpoint, made from the files of its run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from vlm_rl.run.report import ROWS
from vlm_rl.show.markdown import Markdown, table
from vlm_rl.upload.evaluations import BenchmarkRow
from vlm_rl.upload.run_record import RunRecord, is_hub_id

TASK = "image-text-to-text"


@dataclass(frozen=True)
class CardSource:
    """What a card is made from: the run, the repository, and what only its owner knows.

    `base_model` is the hub id of what was trained, None if it is on no hub.
    """

    record: RunRecord
    repo: str
    base_model: str | None
    license: str | None
    benchmarks: Sequence[BenchmarkRow]
    files: Sequence[str]

    @property
    def objective(self) -> str:
        return _name(self.record.config["objective"])

    @property
    def is_adapter(self) -> bool:
        return (self.record.weights / "adapter_config.json").is_file()


def model_card(source: CardSource) -> ModelCard:
    """Return the card: what was trained, held-out numbers, benchmarks, settings, commands."""
    sections = [
        _opening(source),
        _use(source),
        _held_out(source.record),
        _benchmarks(source.benchmarks),
        _training(source),
        _commands(source),
        _files(source),
    ]
    body = Markdown("\n\n").join(section for section in sections if section)
    # the page of the hub says what is wrong with metadata; to check it here asks the hub
    return ModelCard(f"---\n{_metadata(source).to_yaml()}\n---\n\n{body}\n")


def _metadata(source: CardSource) -> ModelCardData:
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=row.source if is_hub_id(row.source) else row.benchmark,
            dataset_name=row.benchmark,
            dataset_split=row.split,
            metric_type="accuracy",
            metric_value=round(100 * row.mean, 2),
        )
        for row in source.benchmarks
        if row.is_trained
    ]
    relation = "adapter" if source.is_adapter else "finetune"
    of_base: dict[str, Any] = {"base_model_relation": relation} if source.base_model else {}
    return ModelCardData(
        base_model=source.base_model,
        datasets=source.record.datasets or None,
        eval_results=results or None,
        model_name=source.repo.partition("/")[2] if results else None,
        library_name="peft" if source.is_adapter else "transformers",
        license=source.license,
        pipeline_tag=TASK,
        tags=["vlm_rl", "reinforcement-learning", source.objective.lower()],
        **of_base,
    )


def _opening(source: CardSource) -> Markdown:
    text = Markdown("# {}\n\n{} after {} steps of reinforcement learning with {} on {}.")
    return text.format(
        source.repo.partition("/")[2],
        source.base_model or _last_part(source.record.base),
        source.record.checkpoint.step,
        source.objective,
        _data(source.record),
    )


def _use(source: CardSource) -> Markdown:
    code = Markdown(
        "## Use\n\n"
        "```python\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
        'model = AutoModelForImageTextToText.from_pretrained("{}")\n'
        'processor = AutoProcessor.from_pretrained("{}")\n'
        "```\n\n"
        "It was trained with prompts of style {}{}, sampled at temperature {}, and answers of "
        "up to {} tokens."
    )
    prompt, sampling = source.record.config["prompt"], source.record.config["sampling"]
    own = [name for name in ("instruction", "system", "template_args") if prompt.get(name)]
    return code.format(
        source.repo,  # a name that the hub accepts has nothing to escape
        source.repo,
        prompt["style"],
        f" with its own {' and '.join(own)} (training/config.yaml)" if own else "",
        sampling["temperature"],
        sampling["max_completion_tokens"],
    )


def _held_out(record: RunRecord) -> Markdown:
    heading = Markdown("## Held-out problems\n\n")
    if not record.after:
        step = record.checkpoint.step
        return heading + Markdown("Step {} was not validated in training.").format(step)
    rows = [
        [label, *(form.format(row[name]) if name in row else "" for row in _ends(record))]
        for label, (name, form) in ROWS.items()
        if name in record.after
    ]
    before = [f"step {record.before['step']:.0f}"] if record.before else []
    numbers = table(["", *before, f"step {record.after['step']:.0f}"], rows)
    count = record.num_problems.get("held_out")
    note = Markdown("{}{} held out in training. {}").format(
        f"{count} problems of " if count else "Problems of ",
        ", ".join(_paths(record, "val")) or "no data",
        "The checkpoint was chosen by its accuracy on them, which makes that look better."
        if record.is_best
        else "",
    )
    return heading + numbers + Markdown("\n\n") + note


def _ends(record: RunRecord) -> list[Mapping[str, float]]:
    return [row for row in (record.before, record.after) if row]


def _benchmarks(rows: Sequence[BenchmarkRow]) -> Markdown:
    if not rows:
        return Markdown("")
    lines = [
        [
            f"{row.benchmark} {row.split}",
            "after" if row.is_trained else "before",
            row.num_questions,
            f"{row.mean:.1%} [{row.low:.1%}, {row.high:.1%}]",
            "" if row.official is None else f"{row.official:.1%}",
            "" if row.length_tokens is None else f"{row.length_tokens:.1f}",
        ]
        for row in rows
    ]
    headings = ("", "training", "questions", "accuracy, 95 % interval", "official rule", "tokens")
    return (
        Markdown("## Benchmarks\n\n")
        + table(headings, lines)
        + Markdown("\n\nAccuracy is by the strict verifier that rewards training.")
    )


def _training(source: CardSource) -> Markdown:
    config, record = source.record.config, source.record
    steps, prompts = record.checkpoint.step, config["data"]["prompts_per_step"]
    total = steps * prompts * config["group_size"]
    terms = {name: _call(term, "weight") for name, term in config["reward"]["terms"].items()}
    count = record.num_problems.get("train")
    rows = [
        ("base", source.base_model or _last_part(record.base)),
        ("data", _data(record) + (f", {count} problems" if count else "")),
        ("rows left out", ", ".join(f"{n} x {why}" for why, n in record.skipped_rows.items())),
        ("steps", f"{steps} of {prompts} problems x {config['group_size']}: {total} completions"),
        ("objective", _call(config["objective"])),
        ("advantage", _call(config["advantage"])),
        ("reward", ", ".join(f"{name}: {term}" for name, term in terms.items())),
        ("learning rate", f"{config['optimizer']['lr']:g}, {config['optimizer']['schedule']}"),
        ("updates a step", config["updates"]["num_minibatches"]),
        ("precision", config["trainer"]["precision"] or "32-true"),
        ("parts not trained", ", ".join(config["policy"]["freeze"])),
        ("seed", config["seed"]),
    ]
    return Markdown("## Training\n\n") + table(("", ""), [row for row in rows if row[1] != ""])


def _commands(source: CardSource) -> Markdown:
    lines = [
        Markdown(
            "hf download {} --local-dir checkpoint\n"
            "python -m vlm_rl.fit --config checkpoint/training/config.yaml --run_dir runs/again"
        ).format(source.repo)
    ]
    asked = dict.fromkeys(row.benchmark for row in source.benchmarks if row.is_trained)
    if asked:
        command = Markdown("python -m vlm_rl.evaluate --model checkpoint --benchmark {}")
        lines.append(command.format(" ".join(asked)))
    fence = Markdown(
        "## Commands\n\n```bash\n{}\n```\n\nThe configuration names its data by paths."
    )
    return fence.format(Markdown("\n").join(lines))


def _files(source: CardSource) -> Markdown:
    """Say what of the run is beside the weights."""
    beside = [name for name in source.files if name.startswith("training/")]
    lines = [Markdown("- {}").format(name) for name in beside]
    return Markdown("## Files of the run\n\n") + Markdown("\n").join(lines)


def _data(record: RunRecord) -> str:
    return ", ".join(_paths(record, "train"))


def _paths(record: RunRecord, kind: str) -> list[str]:
    """Return the names of the data: a hub id whole, of a path the last part alone, since the rest
    says where its owner keeps it."""
    paths = [entry["path"] for entry in record.config["data"][kind]]
    return [path if is_hub_id(path) else _last_part(path) for path in paths]


def _last_part(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _name(part: Mapping[str, Any]) -> str:
    return str(part["class_path"]).rpartition(".")[2]


def _call(part: Mapping[str, Any], *only: str) -> str:
    """Return a class with the plain arguments that it was given, or `only` some of them."""
    given = part.get("init_args") or {}
    shown = {
        name: value
        for name, value in given.items()
        if isinstance(value, int | float | str) and (not only or name in only)
    }
    arguments = ", ".join(f"{name}={value}" for name, value in shown.items())
    return f"{_name(part)}({arguments})" if arguments else _name(part)
