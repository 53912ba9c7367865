"""Train a policy: `python -m vlm_rl.fit --config configs/quickstart.yaml [--dotted.key value ...]`.

Several `--config` files are merged in order, later ones win; `--print_config` shows the result.
The same command again resumes from the last checkpoint.
"""

import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt, restricted_number_type
from lightning.pytorch.loggers import Logger
from transformers.utils.logging import disable_progress_bar

from vlm_rl import ranks
from vlm_rl.advantages import Advantage
from vlm_rl.config import instantiate, one_line_errors, parse, plain
from vlm_rl.data.datamodule import ProblemData
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.distributed import strategies
from vlm_rl.distributed.rank_strategy import RankStrategy
from vlm_rl.edits import RolloutEdit
from vlm_rl.health import Health
from vlm_rl.model.policy import Policy, check_checkpoint
from vlm_rl.model.safe_archives import check_weights
from vlm_rl.objectives import Objective
from vlm_rl.preflight.at_start import notices
from vlm_rl.rewards import KLInReward, Reward
from vlm_rl.rollout import Engine, Sampling, StopTokens, unused_sampler
from vlm_rl.run import folder as run_folder
from vlm_rl.run.banner import say_banner
from vlm_rl.run.benchmarks import BenchmarkRuns, BenchmarkSettings
from vlm_rl.run.checkpoints import Checkpoints
from vlm_rl.run.checks import check_consistency, check_golds, check_ranks, check_routers
from vlm_rl.run.exit_status import Exits
from vlm_rl.run.first_problems import show_first_problems
from vlm_rl.run.health_warnings import HealthWarnings
from vlm_rl.run.heartbeat import Heartbeat
from vlm_rl.run.job import Job
from vlm_rl.run.length_gradients import LengthGradients
from vlm_rl.run.length_report import LengthFairness
from vlm_rl.run.metrics_csv import MetricsCsv
from vlm_rl.run.peer_names import PEER_NAMES, PEER_VALUES
from vlm_rl.run.progress import ProgressBars
from vlm_rl.run.report import Summary
from vlm_rl.run.resume import OwedWork, Resume, SameStep, check_fits
from vlm_rl.run.samples import RolloutFiles, SampleTable
from vlm_rl.run.signals import Preemption
from vlm_rl.run.terminal import LastingOutput
from vlm_rl.run.trace import Trace
from vlm_rl.run.trainer import ELSEWHERE, OURS, build_trainer
from vlm_rl.shaping import Shaping
from vlm_rl.show.help.parser import explain_groups, new_parser
from vlm_rl.show.screen import say
from vlm_rl.trackers import (
    TrackerName,
    WandbMode,
    check_trackers,
    check_wandb,
    open_trackers,
    wandb_runs,
)
from vlm_rl.training.dynamic_sampling import GroupFilter
from vlm_rl.training.module import RLModule
from vlm_rl.training.overlap import Overlap, OverlappedModule
from vlm_rl.training.settings import (
    OptimizerSettings,
    UpdateSettings,
    ValidationSettings,
)


def build_parser() -> ArgumentParser:
    """Every key of a run's configuration, each from the signature of what it configures."""
    parser = new_parser("fit", __doc__)
    group_size = restricted_number_type("GroupSize", int, (">=", 2))
    parser.add_argument("--config", action="config", help="a recipe or YAML file, or several")
    parser.add_argument("--run_dir", type=str, required=True, help="the folder of this run")
    parser.add_argument("--steps", type=PositiveInt, required=True, help="of the whole run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--group_size", type=group_size, default=8, help="completions per prompt")
    parser.add_method_arguments(Policy, "from_pretrained", "policy", skip={"seed", "empty"})
    parser.add_class_arguments(PromptEncoder, "prompt", skip={"path"}, instantiate=False)
    parser.add_class_arguments(ProblemData, "data", skip={"encoder", "seed"}, instantiate=False)
    parser.add_subclass_arguments(Engine, "engine", required=True)
    parser.add_class_arguments(Sampling, "sampling")
    parser.add_class_arguments(Reward, "reward")
    parser.add_subclass_arguments(Advantage, "advantage", required=True)
    parser.add_subclass_arguments(Objective, "objective", required=True)
    parser.add_argument("--kl_in_reward", type=KLInReward | None, default=None)
    parser.add_argument("--shaping", type=Shaping | None, default=None)
    parser.add_argument("--edit", type=RolloutEdit | None, default=None)
    parser.add_argument("--dynamic_sampling", type=GroupFilter | None, default=None)
    parser.add_argument("--overlap", type=Overlap | None, default=None)
    parser.add_argument(
        "--drift_alarm", type=PositiveFloat, default=0.1, help="engine against policy, nats a token"
    )
    parser.add_class_arguments(UpdateSettings, "updates")
    parser.add_class_arguments(OptimizerSettings, "optimizer")
    parser.add_class_arguments(ValidationSettings, "validation")
    parser.add_argument("--benchmarks", type=BenchmarkSettings | None, default=None)
    parser.add_class_arguments(Checkpoints, "checkpoint", skip={"run_dir"}, instantiate=False)
    parser.add_class_arguments(RolloutFiles, "rollouts", skip={"run_dir"}, instantiate=False)
    parser.add_class_arguments(Health, "health")
    parser.add_argument(
        "--hang_timeout_s",
        type=PositiveFloat,
        default=1800.0,
        help="without a sign of life for so long the run ends with status 75",
    )
    parser.add_argument(
        "--profile", type=NonNegativeInt, default=0, help="steps, after the first, to trace"
    )
    parser.add_argument(
        "--length_gradients",
        type=NonNegativeInt,
        default=0,
        help="measure gradients by length every so many steps; 0: never",
    )
    parser.add_argument("--logging.wandb", type=WandbMode, default="offline")
    parser.add_argument(
        "--logging.trackers", type=list[TrackerName], default=[], help="beside W&B and metrics.csv"
    )
    parser.add_argument("--logging.project", type=str, default="vlm_rl")
    parser.add_class_arguments(L.Trainer, "trainer", skip=set(OURS), instantiate=False)
    return explain_groups(parser, {"policy": Policy.from_pretrained})


def fit(argv: Sequence[str] | None = None) -> RLModule:
    """Train as the command line says; return the module, which holds the trained policy.

    Raises SystemExit with one line for anything wrong with the configuration or its data, and for
    every exit in vlm_rl.run.exit_status.
    """
    preemption, exits = Preemption(), Exits("vlm_rl.fit")
    with (
        LastingOutput().opened() as output,
        exits.in_one_line(),
        preemption.listening(),
        ExitStack() as held,
    ):
        return _fit(argv, preemption, exits, output, held)


def _fit(
    argv: Sequence[str] | None,
    preemption: Preemption,
    exits: Exits,
    output: LastingOutput,
    held: ExitStack,
) -> RLModule:
    choose_threads()
    quieten()
    with one_line_errors("vlm_rl.fit"):
        job = _checked(argv, exits, held)
    trainer, run_dir = job.trainer, Path(job.config.run_dir)
    if ranks.is_zero():
        run_folder.save_config(run_dir, job.resolved)
        show_first_problems(job.data, run_dir)
    heartbeat = Heartbeat(
        run_dir, job.config.hang_timeout_s, rank=trainer.global_rank, num_ranks=trainer.world_size
    )
    health = HealthWarnings(job.parts.health)
    trainer.callbacks[:0] = [  # type: ignore[attr-defined]
        *_reports(run_dir, job.rollouts),
        health,  # before the checkpoint, which has what it has seen
        job.gradients,
        *job.benchmarks,  # after all that is written of a step, which a signal would leave out
        OwedWork(),  # as a validation comes after them
        job.checkpoints,  # says that all of the step is done
        Trace(run_dir, job.config.profile),
        Summary(run_dir, health.findings),
        preemption,
        heartbeat,
    ]
    trainer.loggers = _loggers(job.config, job.resolved, job.resume, held)
    preemption.join(trainer.world_size, exits.at_once)
    output.go_on_in(run_dir)
    exits.run_dir, exits.clock = run_dir, job.module.clock
    checkpoint = job.newest.trainer_file if job.newest else None
    # the line is printed before an engine is closed, which may take longer than a launcher waits
    with job.parts.reward, closing(job.parts.engine), exits.in_one_line(), heartbeat:
        trainer.fit(job.module, datamodule=job.data, ckpt_path=checkpoint, weights_only=True)
    return job.module


def _checked(argv: Sequence[str] | None, exits: Exits, held: ExitStack) -> Job:
    """Build a run and check it, what is cheap first, the model's weights last."""
    parser = build_parser()
    config = parse(parser, argv, ELSEWHERE | PEER_NAMES | PEER_VALUES)
    run_dir, resolved = Path(config.run_dir), plain(parser, config)
    exits.config = resolved
    if ranks.is_zero():
        held.enter_context(run_folder.own(run_dir, "run_dir"))
    newest = _resume(run_dir, resolved)
    check_wandb(config.logging.wandb)
    check_trackers(config.logging.trackers)
    parts = instantiate(parser, config)
    check_consistency(config, parts)
    trainer = build_trainer(config)
    checkpoints = Checkpoints(run_dir, **vars(config.checkpoint))
    rollouts = RolloutFiles(run_dir, **vars(config.rollouts))
    model = check_checkpoint(config.policy.path)
    check_weights(config.policy.path)
    check_ranks(trainer, parts, model)
    gradients = LengthGradients(config.length_gradients)
    gradients.check(parts.objective, trainer.world_size)
    check_routers(parts, model)
    say_banner(config, parts, trainer, model.model_type)
    parts.engine.check_model(model)
    encoder = PromptEncoder(config.policy.path, **vars(parts.prompt))
    seen = {"config": config, "resolved": resolved, "trainer": trainer, "checkpoint": model}
    data = _read_data(config, parts, encoder, seen)
    benchmarks = _benchmarks(config, parts, encoder)
    module = _module(config, parts, encoder, data, strategies.of(trainer.strategy))
    return Job(
        config,
        resolved,
        parts,
        trainer,
        data,
        module,
        rollouts,
        gradients,
        benchmarks,
        checkpoints,
        newest,
        resume=check_fits(newest, module, data) if newest else None,
    )


def _read_data(
    config: Namespace, parts: Namespace, encoder: PromptEncoder, seen: Mapping[str, Any]
) -> ProblemData:
    """Read the problems, check them and the reward that judges them, and print what should be known
    before a model is loaded. `seen` is what notices may look at beside the data.

    Raises ValueError where the run cannot use them.
    """
    data = ProblemData(**vars(parts.data), encoder=encoder, seed=config.seed)
    data.setup("fit")
    parts.reward.self_test()
    check_golds(data, parts.reward)
    if ranks.is_zero():
        for line in notices(data, {**seen, "parts": parts, "encoder": encoder}):
            say(line)
    if parts.dynamic_sampling is not None:
        parts.dynamic_sampling.check_refill(len(data.train_set), data.prompts_per_step)
    if notice := unused_sampler(config.policy.path, parts.sampling):
        ranks.print_once(notice)
    ranks.print_once(StopTokens.of(encoder.path, encoder.tokenizer).line(encoder.tokenizer))
    return data


def _resume(run_dir: Path, config: dict[str, Any]) -> run_folder.Checkpoint | None:
    """Find what to resume from. Only rank 0 checks the folder; to the others it may look half made,
    because rank 0 is at work in it."""
    if ranks.is_zero():
        return run_folder.find_resume(run_dir, config)
    return run_folder.newest_checkpoint(run_dir)


def quieten() -> None:
    """Silence what libraries say at every start about themselves."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    disable_progress_bar()  # of reading and writing weights; the run has its own
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # if the very first update is skipped it warns of a wrong order
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")


def choose_threads() -> None:
    """One thread per process on a CPU unless told otherwise: with as few as one busy neighbour,
    more threads than free cores make a step tens of times slower."""
    if not torch.cuda.is_available():
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        # transformers imports DeepSpeed, where there is one, which would warn that it found no GPU
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _module(
    config: Namespace,
    parts: Namespace,
    encoder: PromptEncoder,
    data: ProblemData,
    strategy: RankStrategy,
) -> RLModule:
    empty = not strategy.loads_weights
    schedule: Callable[..., RLModule] = RLModule
    if parts.overlap is not None:
        schedule = partial(OverlappedModule, overlap=parts.overlap, following=data.following)
    return schedule(
        policy=Policy.from_pretrained(**vars(parts.policy), seed=config.seed, empty=empty),
        encoder=encoder,
        engine=parts.engine,
        reward=parts.reward,
        advantage=parts.advantage,
        objective=parts.objective,
        sampling=parts.sampling,
        updates=parts.updates,
        optimizer=parts.optimizer,
        validation=parts.validation,
        group_size=config.group_size,
        steps=config.steps,
        seed=config.seed,
        kl_in_reward=parts.kl_in_reward,
        shaping=parts.shaping,
        edit=parts.edit,
        dynamic_sampling=parts.dynamic_sampling,
        refill=data.refill,
        drift_alarm=config.drift_alarm,
    )


def _benchmarks(config: Namespace, parts: Namespace, encoder: PromptEncoder) -> list[L.Callback]:
    if parts.benchmarks is None:
        return []
    accuracy, run_dir = parts.reward.accuracy, Path(config.run_dir)
    assert accuracy is not None, "`check_consistency` refuses benchmarks without one"
    style = accuracy.answer_style
    return [
        BenchmarkRuns(
            parts.benchmarks, run_dir=run_dir, encoder=encoder, answer_style=style, seed=config.seed
        )
    ]


def _reports(run_dir: Path, rollouts: RolloutFiles) -> list[L.Callback]:
    """List what shows and writes a step, in this order."""
    return [
        SameStep(),
        ProgressBars(),
        rollouts,
        SampleTable(),
        LengthFairness(run_dir),
    ]


def _loggers(
    config: Namespace, resolved: dict[str, Any], resume: Resume | None, held: ExitStack
) -> list[Logger]:
    """Build the loggers. W&B sends its rest when `held` closes, once the last line is printed."""
    if not ranks.is_zero():
        return []
    run_dir = Path(config.run_dir)
    project, step = config.logging.project, resume.step if resume else 0
    wandb = wandb_runs(run_dir, config.logging.wandb, project, resolved, one_run=True)
    others = open_trackers(config.logging.trackers, run_dir, project, resolved, step)
    return [MetricsCsv(run_dir, *(resume or ())), *map(held.enter_context, wandb), *others]


def main(argv: Sequence[str] | None = None) -> None:
    """Train from the command line."""
    fit(argv)


if __name__ == "__main__":
    main()
