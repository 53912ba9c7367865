"""Measure checkpoints on benchmarks or own rows, score responses made elsewhere, or compare:

    python -m vlm_rl.evaluate --model PATH --benchmark mathvision:testmini mathvista my.jsonl
    python -m vlm_rl.evaluate --model PATH PATH PATH --benchmark my.jsonl
    python -m vlm_rl.evaluate --run_dir runs/mine --benchmark my.jsonl
    python -m vlm_rl.evaluate --responses FILE.jsonl --benchmark mathvision:test
    python -m vlm_rl.evaluate --compare runs/evaluate/BEFORE runs/evaluate/AFTER

Several `--config` files are merged in order, later ones win. The same command again resumes where
it was stopped; if no response is missing, it only judges them again.
"""

from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.own_rows import OwnRows, RowSettings
from vlm_rl.evaluation.tasks import PromptSettings, benchmark_and_split, evaluation_name
from vlm_rl.metrics.word_targets import WORD_TARGETS
from vlm_rl.rewards import JudgingTerm
from vlm_rl.rollout import Engine, Sampling
from vlm_rl.rollout.sampling import WHOLE_SOFTMAX
from vlm_rl.servers.chat_server import ChatServer
from vlm_rl.show.help.parser import explain_groups, new_parser
from vlm_rl.trackers import WandbMode


def build_parser() -> ArgumentParser:
    parser = new_parser("evaluate", __doc__)
    parser.add_argument("--config", action="config", help="a recipe or YAML file, or several")
    _add_subjects(parser)
    _add_questions(parser)
    parser.add_argument("--output", type=str | None, help="[runs/evaluate/MODEL]")
    parser.add_argument("--samples_per_problem", type=PositiveInt | None, help="[the benchmark's]")
    parser.add_argument("--blind", type=bool, default=False, help="also ask without the images")
    parser.add_argument(
        "--lengths", action="store_true", help="also write lengths.md: how long, where, for what"
    )
    parser.add_argument(
        "--target_words",
        type=int,
        nargs="+",
        default=[],
        metavar="WORDS",
        help=f"also ask for a length, one of {', '.join(map(str, WORD_TARGETS))}; the last is more",
    )
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


def _add_subjects(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        type=str,
        nargs="+",
        default=[],
        metavar="PATH",
        help="checkpoints, or names on the server; several make one table, against the first",
    )
    parser.add_argument(
        "--run_dir", type=str | None, help="a run: what it began with, and its last checkpoint"
    )
    parser.add_argument("--responses", type=str | None, help="a file of them; no model is loaded")
    parser.add_argument(
        "--compare", type=str, nargs="+", default=[], metavar="FOLDER", help="evaluations"
    )
    parser.add_argument("--common_only", type=bool, default=False, help="of what all were asked")


def _add_questions(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--benchmark",
        type=str,
        nargs="+",
        default=[],
        metavar="NAME[:SPLIT]",
        help=f"a file of rows, or {', '.join(BENCHMARKS)}",
    )
    parser.add_argument("--data", type=dict[str, str], default={}, help="benchmark -> local copy")
    parser.add_class_arguments(RowSettings, "rows")
    parser.add_subclass_arguments(JudgingTerm, "scoring", required=False)
    parser.add_argument("--limit", type=PositiveInt | None, help="problems of each, drawn by seed")
    parser.add_argument(
        "--max_bad_rows",
        type=int | None,
        help="rows that may be unusable [the known flaws; of own rows none]",
    )


def check(config: Namespace) -> None:
    """Raise ValueError for options that do not go together, or that lack another."""
    _refuse_unused(config)
    if config.compare:
        if len(config.compare) < 2:
            raise ValueError(f"--compare {config.compare[0]} has nothing beside it; name a second")
        return
    if not config.benchmark:
        known = ", ".join(BENCHMARKS)
        raise ValueError(f"--benchmark NAME[:SPLIT] is missing; a file of rows, or {known}")
    if config.responses and config.model:
        raise ValueError("--responses are scored without a model; leave --model or them out")
    if config.responses and len(config.benchmark) > 1:
        raise ValueError("--responses are those of one benchmark; name it alone by --benchmark")
    _check_targets(config.target_words)
    named = [benchmark_and_split(name) for name in config.benchmark]
    asked = [questions for questions, _ in named]
    if len({evaluation_name(*one) for one in named}) < len(named):
        raise ValueError(
            f"--benchmark names one twice: {' '.join(config.benchmark)}; files need different names"
        )
    for name in config.data:
        if name not in [questions.name for questions in asked]:
            raise ValueError(f"data.{name} is for a benchmark that --benchmark does not name")
    if any(config.rows.values()) or config.scoring:
        key = "scoring" if config.scoring else "rows"
        if not any(isinstance(questions, OwnRows) for questions in asked):
            raise ValueError(f"{key} is for own rows, and --benchmark names no file; leave it out")


def _refuse_unused(config: Namespace) -> None:
    of_questions = ("benchmark", "data", "scoring", "lengths", "target_words")
    unused = {
        "--compare": config.compare and ("model", "run_dir", "responses", *of_questions),
        "--responses": config.responses
        and ("run_dir", "limit", "samples_per_problem", "blind", "target_words"),
        "--run_dir": config.run_dir and ("model",),
        "an evaluation": not config.compare and ("common_only",),
    }
    for mode, names in unused.items():
        for name in names or ():
            if config[name]:
                raise ValueError(f"{mode} has no use for {name}={config[name]}; leave it out")


def _check_targets(words: list[int]) -> None:
    for number in words:
        if number not in WORD_TARGETS:
            raise ValueError(
                f"target_words={number} has no published band; there are "
                f"{', '.join(map(str, WORD_TARGETS))}"
            )
