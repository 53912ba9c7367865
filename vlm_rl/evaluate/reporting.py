"""From the responses of one model to its report, and to W&B."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from jsonargparse import Namespace

from vlm_rl.evaluate.subjects import Subject
from vlm_rl.evaluation.benchmarks.benchmark import Judged
from vlm_rl.evaluation.benchmarks.own_rows import OwnRows
from vlm_rl.evaluation.judging import judge
from vlm_rl.evaluation.length_report import write_lengths
from vlm_rl.evaluation.lengths import LengthMeasures, length_metrics
from vlm_rl.evaluation.provenance import problems_digest, versions
from vlm_rl.evaluation.report import SAMPLES, write_report, write_samples
from vlm_rl.evaluation.results import BenchmarkResult, metrics
from vlm_rl.evaluation.scoring import name_of, score
from vlm_rl.evaluation.summary import Evaluation
from vlm_rl.evaluation.tasks import ProblemSet, Task
from vlm_rl.rewards import Accuracy, JudgingTerm
from vlm_rl.show.plain import one_line
from vlm_rl.trackers import wandb_runs


class Reported(NamedTuple):
    """A result, and its lengths if they were asked for."""

    result: BenchmarkResult
    lengths: LengthMeasures | None


def report(subject: Subject, parts: Namespace, accuracy: Accuracy) -> list[Reported]:
    """Judge all responses of a model and write its folder."""
    evaluations: list[Evaluation] = []
    lengths: list[LengthMeasures] = []
    for task in subject.tasks:
        evaluation = _evaluation(subject, parts, task, accuracy)
        evaluations.append(evaluation)
        targeted = _judged(task, task.targeted, parts, accuracy)
        if targeted:
            write_samples(targeted, subject.output / task.name / "targeted_samples.jsonl")
        if subject.config.lengths:
            lengths.append(LengthMeasures.of(evaluation, targeted))
    if lengths:
        write_lengths(lengths, subject.output)
    results = write_report(evaluations, subject.output, with_lengths=bool(lengths))
    measured: list[LengthMeasures | None] = [*lengths] or [None for _ in results]
    return [Reported(*pair) for pair in zip(results, measured, strict=True)]


def _judged(
    task: Task, problems: ProblemSet | None, parts: Namespace, accuracy: Accuracy
) -> list[Judged]:
    if problems is None:
        return []
    term: JudgingTerm | None = parts.scoring
    groups = problems.responses.groups
    if term is not None and isinstance(task.benchmark, OwnRows):
        return score(term, problems.problems, groups)
    return judge(task.benchmark, problems.problems, groups, accuracy)


def _evaluation(subject: Subject, parts: Namespace, task: Task, accuracy: Accuracy) -> Evaluation:
    judged = _judged(task, task.seen, parts, accuracy)
    write_samples(judged, subject.output / task.name / SAMPLES)
    reasons = Counter(one.response.refused for one in judged if one.response.refused)
    commonest = reasons.most_common(1)[0][0] if reasons else ""
    skipped = {
        "problems without a response, in no figure": task.without_response,
        f"responses to problems that could not be asked, counted as wrong: {commonest}": (
            reasons.total()
        ),
    }
    config = subject.config
    return Evaluation(
        benchmark=task.name,
        split=task.split,
        source=config.data.get(task.benchmark.name, task.benchmark.hub_id),
        model=config.model or config.responses,
        judged=judged,
        settings=_settings(subject, parts, task),
        measures=task.benchmark.measures(judged),
        published=task.benchmark.published,
        skipped={reason: count for reason, count in skipped.items() if count},
        blind=_judged(task, task.blind, parts, accuracy),
        notes=task.benchmark.notes,
    )


def _settings(subject: Subject, parts: Namespace, task: Task) -> dict[str, Any]:
    """Say how the responses came about, as far as this command made them."""
    config = subject.config
    if config.responses:
        made = {"responses": config.responses}
    else:
        made = {
            "engine": type(parts.engine).__name__,
            "weights": subject.settings["weights"] or "not read here",
            "prompt style": config.prompt.style,
            "instruction": parts.prompt.instruction(task.benchmark),
            "sampling": vars(config.sampling),
            "seed": config.seed,
            "limit": config.limit,
        }
    if parts.scoring is not None and isinstance(task.benchmark, OwnRows):
        made["scored by"] = name_of(parts.scoring)
    return made | {"data": problems_digest(task.seen.problems)} | versions()


def log(subject: Subject, reported: Sequence[Reported]) -> None:
    """Log every metric and plot to W&B."""
    config, output = subject.config, subject.output
    values = {name: value for one in reported for name, value in metrics(one.result).items()}
    for one in reported:
        values |= length_metrics(one.lengths) if one.lengths else {}
    for logger in wandb_runs(
        output, config.logging.wandb, config.logging.project, config.as_dict()
    ):
        with logger:
            logger.log_metrics(values)
            for plot in sorted(output.rglob("*.png")):
                logger.log_image(one_line(f"eval/{plot.relative_to(output)}"), [str(plot)])
