"""The course of an evaluation: check everything, ask, judge, report."""

from collections.abc import Sequence
from contextlib import ExitStack, closing

from jsonargparse import ArgumentParser, Namespace

from vlm_rl.config import instantiate, one_line_errors, parse
from vlm_rl.evaluate.asking import answer_all, read_questions
from vlm_rl.evaluate.comparing import compare_folders, compare_subjects
from vlm_rl.evaluate.options import build_parser, check
from vlm_rl.evaluate.reporting import log, report
from vlm_rl.evaluate.subjects import Subject, models_of, own_folders, prepare
from vlm_rl.evaluation.report import REPORT
from vlm_rl.evaluation.scoring import check_term
from vlm_rl.evaluation.screen import print_overview
from vlm_rl.rewards import Accuracy
from vlm_rl.run import folder as run_folder
from vlm_rl.run.endings import Ending, one_line_endings
from vlm_rl.show.screen import say
from vlm_rl.trackers import check_wandb

PROGRAM = "vlm_rl.evaluate"


def evaluate(argv: Sequence[str] | None = None) -> None:
    """Evaluate as the command line says.

    Raises SystemExit with one line if the command is wrong, with status 3 if the engine fails, and
    as one_line_endings does.
    """
    with one_line_endings(PROGRAM) as ending, ExitStack() as held:
        _evaluate(argv, ending, held)


def _evaluate(argv: Sequence[str] | None, ending: Ending, held: ExitStack) -> None:
    with one_line_errors(PROGRAM):
        parser = build_parser()
        config = parse(parser, argv)
        check(config)
        if config.compare:
            compare_folders(config, held)
            return
        check_wandb(config.logging.wandb)
        parts = instantiate(parser, config)
        accuracy = held.enter_context(closing(Accuracy(workers=2)))
        if parts.scoring is not None:
            held.enter_context(closing(parts.scoring))
            check_term(parts.scoring)
        models = models_of(config, parts.engine)
        folders = own_folders(config, models, held)
        questions = read_questions(config, parts, accuracy)
        subjects = prepare(parser, config, parts, [*zip(models, folders, strict=True)], questions)
        for subject in subjects:
            run_folder.save_config(subject.output, subject.settings)
    for subject in subjects:
        with one_line_errors(PROGRAM):
            _one(parser, config, subject, accuracy, ending)
    if len(subjects) > 1:
        with one_line_errors(PROGRAM):
            compare_subjects(subjects)


def _one(
    parser: ArgumentParser,
    config: Namespace,
    subject: Subject,
    accuracy: Accuracy,
    ending: Ending,
) -> None:
    """Ask one model and report on it. Engine and rule are its own, and gone at the end: two models
    need not fit into memory."""
    output = subject.output
    ending.left = f"the responses so far are kept in {output}, the same command resumes"
    ending.place = str(output)
    ending.lower = _less_memory(config)
    accuracy.self_test()
    with ExitStack() as own:
        parts = instantiate(parser, config)
        if parts.scoring is not None:
            own.enter_context(closing(parts.scoring))
        if subject.missing:
            answer_all(subject.config, parts, subject.tasks, output)
        results = report(subject, parts, accuracy)
    ending.left = f"the report is in {output}"
    log(subject, results)
    print_overview([one.result for one in results])
    say(f"report: {output / REPORT}")


def _less_memory(config: Namespace) -> str:
    """Return the end of a message: what to halve."""
    sampling, batch = config.sampling, config.batch_problems
    return (
        f"; try --batch_problems {max(1, batch // 2)} (now {batch}), or "
        f"--sampling.max_completion_tokens {max(1, sampling.max_completion_tokens // 2)} "
        f"(now {sampling.max_completion_tokens}), both with another --output"
    )
