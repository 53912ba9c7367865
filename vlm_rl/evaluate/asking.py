"""What a command asks, and who answers: questions read once, and the responses of each model."""

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jsonargparse import Namespace

from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.errors import joined
from vlm_rl.evaluation.benchmarks.benchmark import QuestionSet
from vlm_rl.evaluation.benchmarks.loading import load
from vlm_rl.evaluation.benchmarks.own_rows import OwnRows
from vlm_rl.evaluation.responders import ChatResponder, PolicyResponder, Responder
from vlm_rl.evaluation.responses import ResponseLog, batches_of
from vlm_rl.evaluation.scoring import usable
from vlm_rl.evaluation.tasks import (
    ProblemSet,
    Task,
    answer,
    benchmark_and_split,
    evaluation_name,
    given_task,
    with_target_words,
    without_images,
)
from vlm_rl.model.policy import Policy
from vlm_rl.records import Problem
from vlm_rl.rewards import Accuracy
from vlm_rl.rollout import Engine, EngineError
from vlm_rl.rollout.contract import AllowedTokens
from vlm_rl.run.endings import ENGINE
from vlm_rl.servers.chat_server import ChatServer
from vlm_rl.show.screen import warn


@dataclass(frozen=True)
class Questions:
    """The problems of one benchmark or file, the same for every model."""

    asked: QuestionSet
    split: str
    problems: Sequence[Problem]


def read_questions(config: Namespace, parts: Namespace, accuracy: Accuracy) -> list[Questions]:
    """Read all that `--benchmark` names; of own rows the golds too.

    Raises ValueError for what cannot be read, and for golds that cannot be used.
    """
    read = []
    for name in config.benchmark:
        asked, split = benchmark_and_split(name, parts.rows)
        problems = load(
            asked,
            config.data.get(asked.name),
            split,
            limit=config.limit,
            seed=config.seed,
            images=not config.responses,
            max_bad_rows=config.max_bad_rows,
        )
        if isinstance(asked, OwnRows):
            judge = parts.scoring or accuracy
            problems = usable(asked.name, problems, judge, config.max_bad_rows or 0)
        styled = [_styled(problem, asked, parts) for problem in problems]
        read.append(Questions(asked, split, styled))
    return read


def _styled(problem: Problem, asked: QuestionSet, parts: Namespace) -> Problem:
    """Return a problem that says where its answer stands: own rows may say it themselves, and a
    term of the user's has its own place unless they do."""
    if isinstance(asked, OwnRows) and (problem.answer_style or parts.scoring):
        return problem
    return replace(problem, answer_style=parts.prompt.answer_style(asked))


def tasks_of(
    config: Namespace, engine: Engine | ChatServer, questions: Sequence[Questions], output: Path
) -> list[Task]:
    """Return the tasks of one model, with the responses that lie in its folder `output`."""
    if config.responses:
        path = Path(config.responses)
        return [given_task(one.asked, one.split, one.problems, path) for one in questions]
    return [_asked_task(config, engine, one, output) for one in questions]


def _asked_task(
    config: Namespace, engine: Engine | ChatServer, questions: Questions, output: Path
) -> Task:
    asked, problems = questions.asked, questions.problems
    samples = config.samples_per_problem or asked.samples_per_problem
    if samples > 1 and config.sampling.temperature == 0:
        raise ValueError(
            f"{asked.name} is asked {samples} times, and at sampling.temperature=0 every "
            "answer is the same; set a temperature, or samples_per_problem=1"
        )
    size = config.batch_problems
    if isinstance(engine, ChatServer):
        # answers are kept batch by batch, and a server may fail at any request
        size = min(size, max(1, 4 * engine.concurrent // samples))
    folder = output / evaluation_name(asked, questions.split)

    def logged(these: Sequence[Problem], name: str) -> ProblemSet | None:
        log = ResponseLog(folder / name, batches_of(these, size, samples))
        return ProblemSet(these, log) if these else None

    seen = logged(problems, "responses.jsonl")
    assert seen is not None, "there is no benchmark without a problem"
    blind = without_images(problems) if config.blind else []
    targeted = with_target_words(problems, config.target_words, config.seed)
    return Task(
        asked,
        questions.split,
        seen,
        blind=logged(blind, "blind.jsonl"),
        targeted=logged(targeted, "targeted.jsonl"),
    )


def answer_all(config: Namespace, parts: Namespace, tasks: Sequence[Task], output: Path) -> None:
    """Have a model answer all that is missing. Raises SystemExit if the engine fails."""
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
    gc.collect()  # the model before this one, which its engine's cycles may still hold
    policy = Policy.from_pretrained(config.model).to(device)
    parts.engine.start(policy, encoder, parts.sampling)
    return AllowedTokens.of(policy), encoder


def _precision(config: Namespace) -> AbstractContextManager[object]:
    on_gpu = torch.cuda.is_available()
    mixed = config.precision == "bf16-mixed" or (config.precision is None and on_gpu)
    return torch.autocast("cuda" if on_gpu else "cpu", torch.bfloat16) if mixed else nullcontext()
