"""Measure a checkpoint on benchmarks, score responses made elsewhere, or compare two evaluations:

    python -m vlm_rl.evaluate --model PATH --benchmark mathvision:testmini mathvista
    python -m vlm_rl.evaluate --responses FILE.jsonl --benchmark mathvision:test
    python -m vlm_rl.evaluate --compare runs/evaluate/BEFORE runs/evaluate/AFTER

Several `--config` files are merged in order, later ones win. The same command again resumes where
it was stopped; if no response is missing, it only judges them again.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from vlm_rl.config import instantiate, one_line_errors, parse, plain
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.errors import joined
from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.benchmark import Benchmark
from vlm_rl.evaluation.benchmarks.loading import load
from vlm_rl.evaluation.comparison import COMPARISON, compare, print_comparison, write_comparison
from vlm_rl.evaluation.judging import judge
from vlm_rl.evaluation.provenance import problems_digest, versions, weights_digest
from vlm_rl.evaluation.report import REPORT, SAMPLES, write_report, write_samples
from vlm_rl.evaluation.responders import ChatResponder, PolicyResponder, Responder
from vlm_rl.evaluation.responses import ResponseLog, batches_of
from vlm_rl.evaluation.results import BenchmarkResult, metrics
from vlm_rl.evaluation.screen import print_overview
from vlm_rl.evaluation.summary import Evaluation
from vlm_rl.evaluation.tasks import (
    ProblemSet,
    PromptSettings,
    Task,
    answer,
    benchmark_and_split,
    evaluation_name,
    given_task,
    without_images,
)
from vlm_rl.model.policy import Policy, check_checkpoint
from vlm_rl.records import Problem
from vlm_rl.rewards import Accuracy
from vlm_rl.rollout import Engine, EngineError, Sampling
from vlm_rl.rollout.contract import AllowedTokens
from vlm_rl.rollout.sampling import WHOLE_SOFTMAX
from vlm_rl.run import folder as run_folder
from vlm_rl.run.endings import ENGINE, Ending, one_line_endings
from vlm_rl.run.loggers import WandbMode, check_wandb, wandb_loggers
from vlm_rl.servers.chat_server import ChatServer
from vlm_rl.show.help.parser import explain_groups, new_parser
from vlm_rl.show.plain import one_line
from vlm_rl.show.screen import say, warn

RESUMABLE_KEYS = ("output", "logging")


def build_parser() -> ArgumentParser:
    parser = new_parser("evaluate", __doc__)
    parser.add_argument("--config", action="config", help="a recipe or YAML file, or several")
    parser.add_argument("--model", type=str | None, help="a checkpoint, or its name on the server")
    parser.add_argument("--responses", type=str | None, help="a file of them; no model is loaded")
    parser.add_argument("--compare", type=str, nargs=2, metavar="FOLDER", help="two evaluations")
    parser.add_argument("--common_only", type=bool, default=False, help="of what both were asked")
    parser.add_argument(
        "--benchmark",
        type=str,
        nargs="+",
        default=[],
        metavar="NAME[:SPLIT]",
        help=", ".join(BENCHMARKS),
    )
    parser.add_argument("--data", type=dict[str, str], default={}, help="benchmark -> local copy")
    parser.add_argument("--output", type=str | None, help="[runs/evaluate/MODEL]")
    parser.add_argument("--samples_per_problem", type=PositiveInt | None, help="[the benchmark's]")
    parser.add_argument("--limit", type=PositiveInt | None, help="problems of each, drawn by seed")
    parser.add_argument(
        "--max_bad_rows",
        type=int | None,
        help="rows that may be unusable [the known flaws]",
    )
    parser.add_argument("--blind", type=bool, default=False, help="also ask without the images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch_problems", type=PositiveInt, default=64, help="asked at a time")
    parser.add_argument("--precision", type=Literal["32-true", "bf16-mixed"] | None)
    parser.add_class_arguments(PromptSettings, "prompt")
    parser.add_class_arguments(Sampling, "sampling")
    parser.add_subclass_arguments((Engine, ChatServer), "engine")
    parser.add_argument("--logging.wandb", type=WandbMode, default="offline")
    parser.add_argument("--logging.project", type=str, default="vlm_rl")
    parser.set_defaults(
        {
            "sampling.temperature": 0.0,
            # nothing is trained here, so no ratio can be wrong
            "sampling.allow_undescribed": tuple(WHOLE_SOFTMAX),
            "engine": {"class_path": "vlm_rl.rollout.TransformersEngine"},
        }
    )
    return explain_groups(parser)


def evaluate(argv: Sequence[str] | None = None) -> None:
    """Evaluate as the command line says.

    Raises SystemExit with one line if the command is wrong, with status 3 if the engine fails, and
    as one_line_endings does.
    """
    with one_line_endings("vlm_rl.evaluate") as ending, ExitStack() as held:
        _evaluate(argv, ending, held)


def _evaluate(argv: Sequence[str] | None, ending: Ending, held: ExitStack) -> None:
    with one_line_errors("vlm_rl.evaluate"):
        parser = build_parser()
        config = parse(parser, argv)
        _check(config)
        if config.compare:
            _compare(config, held)
            return
        check_wandb(config.logging.wandb)
        parts = instantiate(parser, config)
        _settle_model(config, parts.engine)
        output = Path(config.output or f"runs/evaluate/{_subject(config)}")
        held.enter_context(run_folder.own(output, "output"))
        tasks = _tasks(config, parts, output)
        inputs = _inputs(config, parts, tasks, output)
        settings = plain(parser, config) | inputs
        run_folder.check_same(output, settings, RESUMABLE_KEYS)
        missing = any(each.responses.missing for task in tasks for each in task.problem_sets)
        if missing and isinstance(parts.engine, Engine):
            parts.engine.check(parts.sampling)
            parts.engine.check_model(check_checkpoint(config.model))
        ending.left = f"the responses so far are kept in {output}, the same command resumes"
        ending.place = str(output)
        ending.lower = _less_memory(config)
        run_folder.save_config(output, settings)
        if missing:
            _answer_all(config, parts, tasks, output)
    with closing(Accuracy(workers=2)) as accuracy:
        accuracy.self_test()
        evaluations = [
            _evaluation(config, parts, task, accuracy, output, weights=inputs["weights"])
            for task in tasks
        ]
    results = write_report(evaluations, output)
    ending.left = f"the report is in {output}"
    _log(config, output, results)
    print_overview(results)
    say(f"report: {output / REPORT}")


def _check(config: Namespace) -> None:
    """Refuse options that do not go together, or that lack another."""
    unused = {
        "--compare": config.compare and ("model", "responses", "benchmark", "data"),
        "--responses": config.responses and ("limit", "samples_per_problem", "blind"),
        "an evaluation": not config.compare and ("common_only",),
    }
    for mode, names in unused.items():
        for name in names or ():
            if config[name]:
                raise ValueError(f"{mode} has no use for {name}={config[name]}; leave it out")
    if config.compare:
        return
    if not config.benchmark:
        raise ValueError(f"--benchmark NAME[:SPLIT] is missing; there are {', '.join(BENCHMARKS)}")
    if config.responses and config.model:
        raise ValueError("--responses are scored without a model; leave --model or them out")
    if config.responses and len(config.benchmark) > 1:
        raise ValueError("--responses are those of one benchmark; name it alone by --benchmark")
    asked = [benchmark_and_split(name)[0].name for name in config.benchmark]
    for name in config.data:
        if name not in asked:
            raise ValueError(f"data.{name} is for a benchmark that --benchmark does not name")


def _less_memory(config: Namespace) -> str:
    """Return the end of a message: what to halve."""
    sampling, batch = config.sampling, config.batch_problems
    return (
        f"; try --batch_problems {max(1, batch // 2)} (now {batch}), or "
        f"--sampling.max_completion_tokens {max(1, sampling.max_completion_tokens // 2)} "
        f"(now {sampling.max_completion_tokens}), both with another --output"
    )


def _compare(config: Namespace, held: ExitStack) -> None:
    first, second = map(Path, config.compare)
    comparison = compare(first, second, common_only=config.common_only)
    target = Path(config.output or second)
    held.enter_context(run_folder.own(target, "output"))
    write_comparison(comparison, target)
    print_comparison(comparison)
    say(f"comparison: {target / COMPARISON}")


def _settle_model(config: Namespace, engine: Engine | ChatServer) -> None:
    """Have a server name its model if `--model` does not; refuse what the engine cannot use."""
    if isinstance(engine, ChatServer):
        if (config.prompt.min_pixels, config.prompt.max_pixels) != (None, None):
            raise ValueError(
                "prompt.min_pixels and max_pixels are for a policy; a server resizes images itself "
                "(vLLM: its --mm-processor-kwargs)"
            )
        if not config.responses:
            config.model = config.model or engine.model_name()
    elif not config.responses and not config.model:
        raise ValueError("--model PATH is missing (or --responses FILE, or --compare A B)")


def _subject(config: Namespace) -> str:
    """Name what is evaluated, for a folder."""
    path = Path(config.responses or config.model)
    if path.name == "hf":  # the checkpoint of a run: runs/NAME/checkpoints/step_N/hf
        return "-".join(path.parts[-4:-1:2])
    return path.stem if config.responses else path.name


def _tasks(config: Namespace, parts: Namespace, output: Path) -> list[Task]:
    tasks = []
    for name in config.benchmark:
        benchmark, split = benchmark_and_split(name)
        loaded = load(
            benchmark,
            config.data.get(benchmark.name),
            split,
            limit=config.limit,
            seed=config.seed,
            images=not config.responses,
            max_bad_rows=config.max_bad_rows,
        )
        style = parts.prompt.answer_style(benchmark)
        problems = [replace(problem, answer_style=style) for problem in loaded]
        if config.responses:
            tasks.append(given_task(benchmark, split, problems, Path(config.responses)))
        else:
            folder = output / evaluation_name(benchmark, split)
            tasks.append(_asked_task(config, parts.engine, benchmark, split, problems, folder))
    if len({task.name for task in tasks}) < len(tasks):
        raise ValueError(f"--benchmark names one twice: {' '.join(config.benchmark)}")
    return tasks


def _asked_task(
    config: Namespace,
    engine: Engine | ChatServer,
    benchmark: Benchmark,
    split: str,
    problems: Sequence[Problem],
    folder: Path,
) -> Task:
    samples = config.samples_per_problem or benchmark.samples_per_problem
    if samples > 1 and config.sampling.temperature == 0:
        raise ValueError(
            f"{benchmark.name} is asked {samples} times, and at sampling.temperature=0 every "
            "answer is the same; set a temperature, or samples_per_problem=1"
        )
    size = config.batch_problems
    if isinstance(engine, ChatServer):
        # answers are kept batch by batch, and a server may fail at any request
        size = min(size, max(1, 4 * engine.concurrent // samples))

    def logged(asked: Sequence[Problem], name: str) -> ProblemSet:
        return ProblemSet(asked, ResponseLog(folder / name, batches_of(asked, size, samples)))

    blind = without_images(problems) if config.blind else []
    return Task(
        benchmark,
        split,
        logged(problems, "responses.jsonl"),
        logged(blind, "blind.jsonl") if blind else None,
    )


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


def _answer_all(config: Namespace, parts: Namespace, tasks: Sequence[Task], output: Path) -> None:
    try:
        with _responders(config, parts) as responder:
            answer(tasks, responder, config.seed)
    except EngineError as error:
        warn(
            f"vlm_rl.evaluate: {joined(str(error))}; the responses so far are kept in {output}, "
            "run the same command to resume"
        )
        raise SystemExit(ENGINE) from error


@contextmanager
def _responders(config: Namespace, parts: Namespace) -> Iterator[Callable[[Task], Responder]]:
    """Start the engine, and yield what makes the responder to each task."""
    engine, prompt, sampling = parts.engine, parts.prompt, parts.sampling
    if isinstance(engine, ChatServer):
        yield lambda task: ChatResponder(
            engine,
            config.model,
            instruction=prompt.instruction(task.benchmark),
            system=prompt.system,
            template_args=prompt.template_args,
            sampling=sampling,
        )
    else:
        with closing(engine), _precision(config):
            allowed, encoder = _start(config, parts)
            yield lambda task: PolicyResponder(
                engine,
                allowed,
                encoder.with_instruction(prompt.instruction(task.benchmark)),
                sampling,
            )


def _start(config: Namespace, parts: Namespace) -> tuple[AllowedTokens, PromptEncoder]:
    """Load the checkpoint and give it to the engine, which may be all that keeps it."""
    settings = parts.prompt
    encoder = PromptEncoder(
        config.model,
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
        max_prompt_tokens=settings.max_prompt_tokens,
        system=settings.system,
        template_args=settings.template_args,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":  # more threads than free cores make a step tens of times slower
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    policy = Policy.from_pretrained(config.model).to(device)
    parts.engine.start(policy, encoder, parts.sampling)
    return AllowedTokens.of(policy), encoder


def _precision(config: Namespace) -> AbstractContextManager[object]:
    on_gpu = torch.cuda.is_available()
    mixed = config.precision == "bf16-mixed" or (config.precision is None and on_gpu)
    return torch.autocast("cuda" if on_gpu else "cpu", torch.bfloat16) if mixed else nullcontext()


def _evaluation(
    config: Namespace,
    parts: Namespace,
    task: Task,
    accuracy: Accuracy,
    output: Path,
    *,
    weights: str | None,
) -> Evaluation:
    judged, *blind = [
        judge(task.benchmark, each.problems, each.responses.groups, accuracy)
        for each in task.problem_sets
    ]
    folder = output / task.name
    write_samples(judged, folder / SAMPLES)
    reasons = Counter(one.response.refused for one in judged if one.response.refused)
    commonest = reasons.most_common(1)[0][0] if reasons else ""
    skipped = {
        "problems without a response, in no figure": task.without_response,
        f"responses to problems that could not be asked, counted as wrong: {commonest}": (
            reasons.total()
        ),
    }
    return Evaluation(
        benchmark=task.name,
        split=task.split,
        source=config.data.get(task.benchmark.name, task.benchmark.hub_id),
        model=config.model or config.responses,
        judged=judged,
        settings=_settings(config, parts, task, weights),
        measures=task.benchmark.measures(judged),
        published=task.benchmark.published,
        skipped={reason: count for reason, count in skipped.items() if count},
        blind=blind[0] if blind else (),
        notes=task.benchmark.notes,
    )


def _settings(
    config: Namespace, parts: Namespace, task: Task, weights: str | None
) -> dict[str, Any]:
    """Say how the responses came about, as far as this command made them."""
    if config.responses:
        made = {"responses": config.responses}
    else:
        made = {
            "engine": type(parts.engine).__name__,
            "weights": weights or "not read here",
            "prompt style": config.prompt.style,
            "instruction": parts.prompt.instruction(task.benchmark),
            "sampling": vars(config.sampling),
            "seed": config.seed,
            "limit": config.limit,
        }
    return made | {"data": problems_digest(task.seen.problems)} | versions()


def _log(config: Namespace, output: Path, results: Sequence[BenchmarkResult]) -> None:
    """Log every metric and plot to W&B."""
    values = {name: value for result in results for name, value in metrics(result).items()}
    for logger in wandb_loggers(
        output, config.logging.wandb, config.logging.project, config.as_dict()
    ):
        with logger:
            logger.log_metrics(values)
            for plot in sorted(output.rglob("*.png")):
                logger.log_image(one_line(f"eval/{plot.relative_to(output)}"), [str(plot)])


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate from the command line."""
    evaluate(argv)


if __name__ == "__main__":
    main()
