"""Trains the same tiny policies under one strategy in several real processes that meet over gloo.

`python sharded_runs.py SPEC_JSON` with `checkpoints` (a folder by family), `out` (a folder) and
`runs`: a list of {"strategy", "processes", "cases"}. Every process of a run trains its share of
each case; the first writes `out/STRATEGY_PROCESSES_CASE.pt`. With "argv" in place of "cases" it is
a command line of `vlm_rl.fit`, and "status" what every process must end with (0); with "weigh", a
checkpoint, every process writes what memory it takes to begin. One process imports everything and
forks the others: importing takes longer than such a run.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import vlm_rl  # noqa: F401  (before anything that imports torchvision)

# isort: split
import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.distributed.tensor import DTensor

from tests.support.run_helpers import build_module
from tests.support.tiny import problem
from vlm_rl import advantages, objectives, ranks
from vlm_rl import fit as command_line
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.distributed import strategies
from vlm_rl.distributed.weights import checksum, frozen_checksum, whole_weights
from vlm_rl.model.families import FAMILIES
from vlm_rl.model.logprobs import TokenStats
from vlm_rl.model.lora import LoraSettings
from vlm_rl.model.policy import Policy
from vlm_rl.model.weights import full, is_adapter
from vlm_rl.records import Batch, Completion, Groups, Problem, Prompt, Scores, Verdict
from vlm_rl.rollout import Engine, Sampling
from vlm_rl.run.length_report import LengthFairness
from vlm_rl.training.module import OptimizerSettings, UpdateSettings

GROUP_SIZE = 4
MIXED = {
    "0": ("Count them: <image>", (32, 64)),
    "1": ("Compute.",),
    "2": ("Is <image> more than <image>?", (48, 48), (32, 80)),
    "3": ("No picture here either, but a longer text.",),
    "4": ("<image>", (64, 64)),
    "5": ("What is 17 + 4?",),
}
"""Of two processes the second has no image."""


@dataclass(frozen=True)
class Case:
    """One training run of `steps` steps on replayed rollouts."""

    objective: objectives.Objective
    advantage: advantages.Advantage = field(default_factory=advantages.Centered)
    family: str = "qwen2_5_vl"
    uids: str = "012345"
    unscored: str = ""
    equal: str = ""
    steps: int = 3
    minibatches: int = 1
    micro_tokens: int = 60
    dtype: torch.dtype = torch.float64
    freeze: tuple[str, ...] = ()
    checkpointing: bool = False
    lora: LoraSettings | None = None
    precision: str = "32-true"
    router_replay: bool = False


CASES: dict[str, Callable[[], Case]] = {
    "token_mean": lambda: Case(objectives.DAPO(), advantages.Whitened()),
    "sequence_mean": lambda: Case(
        objectives.GRPO(regularizers=[objectives.KL(0.1)]), advantages.RankGaussian(), minibatches=2
    ),
    "sequence_sum": lambda: Case(objectives.LUSPO(), family="qwen3_vl", uids="01234"),
    "constant": lambda: Case(
        objectives.DrGRPO(constant_tokens=16),
        advantages.BatchNormalized(),
        minibatches=4,
    ),
    "covariance": lambda: Case(
        objectives.GRPO(
            token_weights=[objectives.ClipCov(frac=0.1, low=-1.0, high=1.0)],
            regularizers=[objectives.EntropyBand(0.01)],
        ),
        micro_tokens=10_000,
    ),
    "groups": lambda: Case(
        objectives.ConSPO(0.5, 0.1, 0.1, 1),
        advantages.VerdictSigns(),
        uids="01234",
        minibatches=2,
        micro_tokens=1,
    ),
    "masked_process": lambda: Case(objectives.DAPO(), unscored="135", micro_tokens=1),
    "text": lambda: Case(objectives.LUSPO(), uids="1355", steps=2),
    "text_then_images": lambda: Case(objectives.LUSPO(), uids="513024", minibatches=3, steps=2),
    "frozen_tower": lambda: Case(objectives.LUSPO(), freeze=("vision_tower",), checkpointing=True),
    "left_out": lambda: Case(objectives.LUSPO(), equal="1234", steps=3),
    "left_out_twice": lambda: Case(objectives.LUSPO(), equal="0345", minibatches=2),
    "nobody_scored": lambda: Case(objectives.LUSPO(), unscored="012345", steps=1),
    "lora": lambda: Case(
        objectives.GRPO(regularizers=[objectives.KL(0.1)]),
        dtype=torch.float32,
        lora=LoraSettings(4, 8, ("language_model", "vision_tower")),
    ),
    "mixture": lambda: Case(
        objectives.GRPO(regularizers=[objectives.LoadBalance(0.5)]),
        family="qwen3_vl_moe",
        uids="01234",
        minibatches=2,
        checkpointing=True,
    ),
    "hybrid_mixture": lambda: Case(
        objectives.DAPO(regularizers=[objectives.LoadBalance(0.5)]), family="qwen3_5_moe", steps=2
    ),
    "mixed": lambda: Case(
        objectives.LUSPO(), minibatches=2, dtype=torch.float32, precision="bf16-mixed"
    ),
    "single": lambda: Case(objectives.LUSPO(), minibatches=2, dtype=torch.float32),
    "twenty": lambda: Case(
        objectives.LUSPO(regularizers=[objectives.KL(0.1)]),
        uids="0134",
        steps=20,
        dtype=torch.float32,
    ),
}

HYBRIDS = tuple(family for family, entry in FAMILIES.items() if entry.recurrence is not None)
MIXTURES = tuple(family for family, entry in FAMILIES.items() if entry.routers is not None)


def _of_family(family: str, **options: Any) -> Case:
    """Rollouts in which no token lies between two experts of a tiny mixture: rounding would choose
    there, and one token's other experts move weights by more than any tolerance of this dtype."""
    objective = objectives.LUSPO(regularizers=[objectives.KL(0.1)])
    given = {"uids": "2045", "steps": 2, "minibatches": 2}
    given |= {"dtype": torch.float32, "checkpointing": True} | options
    return Case(objective, family=family, **given)


CASES |= {f"full_{family}": partial(_of_family, family) for family in FAMILIES}
CASES |= {
    f"lora_{family}": partial(
        _of_family, family, lora=LoraSettings(4, 8, ("language_model", "vision_tower"))
    )
    for family in FAMILIES
}
CASES |= {
    f"{name}_{family}": partial(_of_family, family, freeze=("vision_tower",), precision=precision)
    for family in HYBRIDS
    for name, precision in (("frozen", "32-true"), ("mixed", "bf16-mixed"))
}


def _replayed(family: str, precision: str) -> Case:
    """Every token has its experts from the engine, so that rounding exchanges none. No KL: its
    reference chooses for itself."""
    case = _of_family(family, precision=precision, router_replay=True)
    return replace(case, objective=objectives.LUSPO())


CASES |= {
    f"replayed{name}_{family}": partial(_replayed, family, precision)
    for family in MIXTURES
    for name, precision in (("", "32-true"), ("_mixed", "bf16-mixed"))
}


class Replayed(Engine):
    """Answers each problem with a group of its own, always the same, of very uneven lengths."""

    def start(self, policy: Policy, encoder: PromptEncoder, sampling: Sampling) -> None:
        self.limit = sampling.max_completion_tokens

    def update_weights(self, policy: Policy) -> None:
        pass

    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        return [self._group(prompt.uid, group_size) for prompt in prompts]

    def _group(self, uid: str, size: int) -> list[Completion]:
        generator = torch.Generator().manual_seed(zlib.crc32(uid.encode()))

        def draw(number: int) -> Completion:
            ids = torch.randint(350, (number,), generator=generator)
            logprobs = -5.8 - 0.2 * torch.rand(number, generator=generator)
            reason = "length" if number == self.limit else "stop"
            return Completion(ids, logprobs, reason, "")

        longest = int(torch.randint(2, self.limit + 1, (1,), generator=generator))
        return [draw(1 + k * (longest - 1) // max(size - 1, 1)) for k in range(size)]


class ReplayedExperts(Replayed):
    """Names experts beside the tokens, always the same: `chosen` of E for a token in each layer."""

    returns_experts = True

    def start(self, policy: Policy, encoder: PromptEncoder, sampling: Sampling) -> None:
        super().start(policy, encoder, sampling)
        config = policy.model.config.get_text_config()
        self.shape = (policy.num_routers, config.num_experts)
        self.chosen = config.num_experts_per_tok

    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        groups = super().generate(prompts, group_size=group_size, sampling=sampling, seed=seed)
        return [self._routed(*pair) for pair in zip(prompts, groups, strict=True)]

    def _routed(self, prompt: Prompt, group: Sequence[Completion]) -> list[Completion]:
        generator = torch.Generator().manual_seed(zlib.crc32(prompt.uid.encode()))

        def draw(number: int) -> Tensor:
            order = torch.rand(number, *self.shape, generator=generator).argsort(-1)
            return order[..., : self.chosen].to(torch.uint8)

        before = draw(len(prompt))
        return [replace(c, experts=torch.cat([before, draw(len(c) - 1)])) for c in group]


class SpoiltOnce(objectives.LUSPO):
    """The loss of the first update is not a number."""

    first: Any = None

    def __call__(self, stats: TokenStats, batch: Batch, plan: Any) -> objectives.Loss:
        self.first = plan if self.first is None else self.first
        loss = super().__call__(stats, batch, plan)
        factor = torch.nan if plan is self.first else 1.0
        return loss._replace(terms={name: term * factor for name, term in loss.terms.items()})


class Interrupted(Replayed):
    """Tells its process to end in the second training step after each start."""

    steps = 0

    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        self.steps += group_size > 1
        if self.steps == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().generate(prompts, group_size=group_size, sampling=sampling, seed=seed)


class Frozen(Replayed):
    """Ends where what this process holds of the frozen parameters has no checksum of its own."""

    def start(self, policy: Policy, encoder: PromptEncoder, sampling: Sampling) -> None:
        super().start(policy, encoder, sampling)
        assert frozen_checksum(policy) != checksum([], policy.shards), "nothing is hashed"


class Judge:
    """Rewards even token ids, all completions of the problems in `equal` alike; those of the
    problems in `unscored` could not be checked."""

    reads_policy = False

    def __init__(self, unscored: str, equal: str) -> None:
        self.unscored, self.equal = unscored, equal

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Scores:
        even = [[float((c.token_ids % 2 == 0).double().mean()) for c in group] for group in groups]
        reward = torch.tensor(even, dtype=torch.float64)
        reward[[problem.uid in self.equal for problem in problems]] = 0.5
        verdicts = [
            [
                Verdict.ERROR
                if p.uid in self.unscored
                else Verdict.CORRECT
                if value > 0.5
                else Verdict.WRONG
                for value in row
            ]
            for p, row in zip(problems, even, strict=True)
        ]
        scored = torch.tensor([[verdict.scored for verdict in row] for row in verdicts])
        return Scores({"even": reward}, torch.where(scored, reward, 0.0), verdicts, {"even": 1.0})


class Shared(L.LightningDataModule):
    """The given prompts at every step, shared out as `ProblemData` does."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        super().__init__()
        self.prompts = prompts

    def train_dataloader(self) -> "Shared":
        return self

    def __iter__(self) -> Iterator[list[Prompt]]:
        while True:
            yield list(self.prompts[ranks.rank() :: ranks.world_size()])

    def transfer_batch_to_device(self, batch: Any, device: torch.device, _: int) -> Any:
        return batch


class Scales(L.Callback):
    """Bytes that this process holds: of weights when the policy has come from its folder
    (`loaded`) and when it is spread, and, above what it began with, at most until then (`peak`)."""

    def __init__(self) -> None:
        self.read = {"peak": 0}
        self._before = self._held()
        self._done = threading.Event()
        self._watching = threading.Thread(target=self._watch)
        self._watching.start()

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        self.read["loaded"] = self._weights(module.policy)

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        self._done.set()
        self._watching.join()
        self.read["spread"] = self._weights(module.policy)
        self.read["reference"] = self._weights(module.reference.policy)
        trainer.should_stop = True  # before the first step

    def _watch(self) -> None:
        while not self._done.wait(0.001):
            self.read["peak"] = max(self.read["peak"], self._held() - self._before)

    def _held(self) -> int:
        # not all that is resident: a forked process finds its libraries again page by page
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

    def _weights(self, policy: Policy) -> int:
        own = [p.to_local() if isinstance(p, DTensor) else p for p in policy.parameters()]
        return sum(w.nbytes for w in own if not w.is_meta)


class Exchanges(L.Callback):
    """Counts the collectives of pickled objects in each step, its callbacks included."""

    def __init__(self) -> None:
        self.by_step: list[int] = []
        self._calls = 0
        self._gather = torch.distributed.all_gather_object

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        torch.distributed.all_gather_object = self._count

    def teardown(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        torch.distributed.all_gather_object = self._gather

    def _count(self, *args: Any) -> None:
        self._calls += 1
        self._gather(*args)

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        self._calls = 0

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self.by_step.append(self._calls)


def train(
    case: Case, checkpoint: str, strategy: str, num_processes: int, *callbacks: L.Callback
) -> dict[str, Any]:
    """Metrics of each step and the weights at the end, the same on every process."""
    encoder = PromptEncoder(checkpoint)
    prompts = [encoder.encode(problem(*MIXED[uid], uid=uid)) for uid in case.uids]
    exchanges = Exchanges()
    watching = [*callbacks, LengthFairness(Path("no validation writes here")), exchanges]
    trainer = build_trainer(strategy, num_processes, case.precision, watching)
    policy = Policy.from_pretrained(
        checkpoint,
        freeze=case.freeze,
        gradient_checkpointing=case.checkpointing,
        lora=case.lora,
        router_replay=case.router_replay,
        empty=not strategies.of(trainer.strategy).loads_weights,
    ).to(case.dtype)
    module = build_module(
        policy,
        encoder,
        engine=ReplayedExperts() if case.router_replay else Replayed(),
        reward=Judge(case.unscored, case.equal),
        objective=case.objective,
        advantage=case.advantage,
        sampling=Sampling(1.0, 14),
        steps=case.steps,
        updates=UpdateSettings(
            num_minibatches=case.minibatches,
            micro_batch_tokens=case.micro_tokens,
            max_grad_norm=0.05,
        ),
        optimizer=OptimizerSettings(lr=1e-3, weight_decay=0.1),
        group_size=GROUP_SIZE,
    )
    trainer.fit(module, datamodule=Shared(prompts))
    weights = {name: w.detach().clone() for name, w in whole_weights(policy)}
    if policy.has_adapters:
        state = policy.model.state_dict()
        weights |= {name: full(w).clone() for name, w in state.items() if is_adapter(name)}
    return {
        "metrics": module.metrics,
        "weights": weights,
        "skipped": module.skipped_updates,
        "exchanges": exchanges.by_step,
        "minibatches": case.minibatches,
    }


def build_trainer(
    strategy: str, num_processes: int, precision: str, callbacks: Sequence[L.Callback]
) -> L.Trainer:
    return L.Trainer(
        callbacks=list(callbacks),
        accelerator="cpu",
        devices=num_processes,
        precision=precision,  # type: ignore[arg-type]
        strategy=strategies.build(strategy, precision),
        max_epochs=-1,
        logger=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def run(spec: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
    strategy, num_processes = entry["strategy"], entry["processes"]
    if "argv" in entry:
        command_line.fit(
            [*entry["argv"], f"--trainer.devices={num_processes}", f"--trainer.strategy={strategy}"]
        )
        return
    if "weigh" in entry:
        case = Case(CASES["sequence_mean"]().objective, steps=1, dtype=torch.float32)
        scales = Scales()
        train(case, entry["weigh"], strategy, num_processes, scales)
        Path(spec["out"], f"{ranks.rank()}.json").write_text(json.dumps(scales.read))
        return
    for name in entry["cases"]:
        case = CASES[name]()
        result = train(case, spec["checkpoints"][case.family], strategy, num_processes)
        if ranks.rank() == 0:
            torch.save(result, Path(spec["out"], f"{strategy}_{num_processes}_{name}.pt"))
        for step in result["metrics"]:
            untimed = {key: v for key, v in step.items() if not key.startswith("time/")}
            parts = ranks.gather(untimed)
            assert all(repr(part) == repr(parts[0]) for part in parts), name


def forked(num_processes: int, work: Any, expected: int = 0) -> None:
    """Run `work` in processes that find each other as Lightning's do; raises where one ends with
    another status than `expected`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(num_processes):
        child = os.fork()
        if child == 0:
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_processes)}
            rank_zero_only.rank = rank  # Lightning reads LOCAL_RANK when it is imported
            os._exit(_status(work))
        children.append(child)
    left = set(children)
    while left:
        child, status = os.wait()
        left.discard(child)
        if os.waitstatus_to_exitcode(status) != expected:
            for other in left:
                os.kill(other, signal.SIGKILL)
                os.waitpid(other, 0)
            raise SystemExit(f"process {children.index(child)} of {num_processes}: {status}")


def _status(work: Any) -> int:
    try:
        work()
    except BaseException as error:  # a forked child must not return into its parent's code
        traceback.print_exc()
        return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
    sys.stdout.flush()
    return 0


def main() -> None:
    spec = json.loads(sys.argv[1])
    if any(entry["strategy"].startswith("zero") for entry in spec["runs"]):
        import deepspeed  # noqa: F401
    for entry in spec["runs"]:
        start = time.perf_counter()
        work = lambda entry=entry: run(spec, entry)  # noqa: E731
        forked(entry["processes"], work, entry.get("status", 0))
        seconds = time.perf_counter() - start
        print(f"{entry['strategy']} {entry['processes']}: {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
