"""Benchmarks inside training: a fixed subset, asked of the live engine every `every_n_steps` steps.

Each rank asks its share; rank 0 judges and writes everything. Greedy answers do not depend on the
number of ranks; random numbers are each rank's own.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from vlm_rl import ranks
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.evaluation.benchmarks.benchmark import QuestionSet, Response
from vlm_rl.evaluation.benchmarks.loading import load
from vlm_rl.evaluation.judging import judge
from vlm_rl.evaluation.report import SAMPLES, write_samples
from vlm_rl.evaluation.responders import EncodedProblems
from vlm_rl.evaluation.results import metrics
from vlm_rl.evaluation.summary import Evaluation, summarise
from vlm_rl.evaluation.tasks import benchmark_and_split, evaluation_name
from vlm_rl.rollout import Sampling
from vlm_rl.show.log import Log
from vlm_rl.show.screen import say
from vlm_rl.training.module import RLModule
from vlm_rl.training.streams import Stream

_logger = Log(__name__)
_warn = rank_zero_only(_logger.warning)
_BATCH_PROMPTS = 64


@dataclass(frozen=True)
class BenchmarkSettings:
    """Which benchmarks (`name[:split]`, local copies in `data`), how often, and how many problems.

    Prompts are those of training; decoding is greedy unless `temperature` is above 0.
    """

    benchmark: list[str]
    every_n_steps: int = 50
    data: dict[str, str] = field(default_factory=dict)
    limit: int | None = 128
    samples_per_problem: int = 1
    temperature: float = 0.0

    def __post_init__(self) -> None:
        for name in ("every_n_steps", "samples_per_problem"):
            if getattr(self, name) < 1:
                raise ValueError(f"benchmarks.{name} must be >= 1, got {getattr(self, name)}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"benchmarks.limit must be >= 1, got {self.limit}; null for all")
        for name in self.data:
            if name not in [benchmark_and_split(item)[0].name for item in self.benchmark]:
                raise ValueError(
                    f"benchmarks.data.{name} is for a benchmark that benchmarks.benchmark does not "
                    "name; leave it out"
                )
        if self.samples_per_problem > 1 and self.temperature == 0:
            raise ValueError(
                f"benchmarks.samples_per_problem={self.samples_per_problem} at temperature 0 gives "
                "equal answers; set benchmarks.temperature"
            )


class _Subset(NamedTuple):
    benchmark: QuestionSet
    split: str
    asked: EncodedProblems


class BenchmarkRuns(L.Callback):
    """Ask benchmarks before the first step, every `every_n_steps` steps and at the end.

    Logs `eval/NAME/...` metrics, and writes every response to
    `evaluations/step_N/NAME-SPLIT/samples.jsonl`, where `vlm_rl.evaluate --compare` reads them.
    The constructor raises ValueError for benchmarks that cannot be read.
    """

    def __init__(
        self,
        settings: BenchmarkSettings,
        *,
        run_dir: Path,
        encoder: PromptEncoder,
        answer_style: str,
        seed: int,
    ) -> None:
        self._settings = settings
        self._run_dir = run_dir
        self._subsets = []
        for name in settings.benchmark:
            benchmark, split = benchmark_and_split(name)
            source = settings.data.get(benchmark.name)
            loaded = load(benchmark, source, split, limit=settings.limit, seed=seed)
            problems = [replace(problem, answer_style=answer_style) for problem in loaded]
            subset = _Subset(benchmark, split, EncodedProblems.of(problems, encoder))
            for uid, reason in subset.asked.refused.items():
                _warn("%s: %s is not asked and counts as wrong: %s", name, uid, reason)
            self._subsets.append(subset)

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        """Ask at step 0, and after a resume the benchmarks that the last step did not finish."""
        self._forget_later(module)
        if module.completed_steps == 0:
            self._run(module, self._subsets)
        elif self._is_due(module):
            missing = [not self._has(module, subset) for subset in self._subsets]
            missing = ranks.gather(missing)[0]  # only rank 0 writes them
            self._run(module, [s for s, owed in zip(self._subsets, missing, strict=True) if owed])

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._is_due(module):
            self._run(module, self._subsets)

    @rank_zero_only
    def _forget_later(self, module: RLModule) -> None:
        """Delete what a killed run has written of later steps: their rows are gone, and the files
        alone would pass for done."""
        for folder in (self._run_dir / "evaluations").glob("step_*"):
            step = folder.name.removeprefix("step_")
            if step.isdecimal() and int(step) > module.completed_steps:
                shutil.rmtree(folder)

    def _is_due(self, module: RLModule) -> bool:
        step = module.completed_steps
        return step % self._settings.every_n_steps == 0 or step == module.steps

    def _run(self, module: RLModule, subsets: Sequence[_Subset]) -> None:
        with module.clock("benchmarks"):
            for subset in subsets:
                self._run_one(module, subset)

    def _has(self, module: RLModule, subset: _Subset) -> bool:
        name = evaluation_name(subset.benchmark, subset.split)
        return (self._folder(module, name) / SAMPLES).exists()

    def _folder(self, module: RLModule, name: str) -> Path:
        return self._run_dir / "evaluations" / f"step_{module.completed_steps}" / name

    def _run_one(self, module: RLModule, subset: _Subset) -> None:
        own = _share(subset.asked)
        samples = self._settings.samples_per_problem
        limit = module.sampling.max_completion_tokens
        sampling = Sampling(self._settings.temperature, limit)
        groups: list[Any] = []
        # every rank samples equally often, also with nothing to ask
        for start in range(0, max(ranks.gather(len(own.prompts))), _BATCH_PROMPTS):
            part = own.prompts[start : start + _BATCH_PROMPTS]
            groups += module.sample(
                part, samples, sampling, Stream.benchmark(subset.benchmark.name, start)
            )
        shares: list[list[Sequence[Response]]] = ranks.gather([*own.responses(groups, samples)])
        self._record(module, subset, ranks.round_robin(shares))

    @rank_zero_only
    def _record(
        self, module: RLModule, subset: _Subset, responses: Sequence[Sequence[Response]]
    ) -> None:
        benchmark, split, asked = subset
        checker = module.reward.accuracy
        assert checker is not None, "refused at the start"
        judged = judge(benchmark, asked.problems, responses, checker)
        name = evaluation_name(benchmark, split)
        evaluation = Evaluation(
            benchmark=name,
            split=split,
            source=asked.problems[0].source,
            model=f"step {module.completed_steps}",
            judged=judged,
            measures=benchmark.measures(judged),
        )
        values = metrics(summarise(evaluation))
        folder = self._folder(module, name)
        with module.clock("report"):  # both or neither
            write_samples(judged, folder / SAMPLES)
            module.log_metrics(values)
        accuracy = values[f"eval/{name}/accuracy"]
        say(f"step {module.completed_steps}  {name}: accuracy {accuracy:.1%}")


def _share(asked: EncodedProblems) -> EncodedProblems:
    """Return this rank's share of the problems."""
    problems = asked.problems[ranks.rank() :: ranks.world_size()]
    own = {problem.uid for problem in problems}
    return EncodedProblems(problems, [p for p in asked.prompts if p.uid in own], asked.refused)
