"""Small real runs for tests: command line, problems, and parts that a config can name.

An untrained policy never answers right, so accuracy alone would leave every advantage and every
gradient at zero and make any two runs equal. `EvenTokens` is a reward that differs between the
completions of any policy.
"""

import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from data_prep import synthetic
from tests.support.places import REPOSITORY
from vlm_rl.advantages import Centered
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.packing import Packed
from vlm_rl.model.policy import Policy
from vlm_rl.model.vision import Images
from vlm_rl.objectives import LUSPO
from vlm_rl.records import Batch, Completion, Groups, Problem, Prompt, Rows, Verdict
from vlm_rl.rewards import Accuracy, Reward, RewardTerm
from vlm_rl.rewards.judging import Judgement, values_of
from vlm_rl.rollout import Engine, Sampling, TransformersEngine
from vlm_rl.training.module import OptimizerSettings, RLModule, UpdateSettings, ValidationSettings
from vlm_rl.training.step import Step

QUICKSTART = REPOSITORY / "configs" / "quickstart.yaml"


class EvenTokens(RewardTerm):
    """The share of a completion's tokens whose id is even."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        rows = [[float((c.token_ids % 2 == 0).double().mean()) for c in group] for group in groups]
        return torch.tensor(rows, dtype=torch.float64)


class Nothing(RewardTerm):
    """The same reward for everyone."""

    def __init__(self) -> None:
        super().__init__(1.0)

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        return torch.zeros(len(groups), len(groups[0]), dtype=torch.float64)


class UntestedAccuracy(Accuracy):
    """Skips the golden pairs at the start, which take seconds and have their own tests."""

    def self_test(self) -> None:
        pass


class FirstTokenEven(UntestedAccuracy):
    """Correct if the first token's id is even, as half of an untrained policy's are."""

    def judge(self, problems: Sequence[Problem], groups: Groups) -> Judgement:
        even = [[int(completion.token_ids[0]) % 2 == 0 for completion in g] for g in groups]
        verdicts = [[Verdict.CORRECT if e else Verdict.WRONG for e in row] for row in even]
        return Judgement(values_of(verdicts), verdicts)


REWARD_TERMS = {
    "accuracy": {"class_path": "tests.support.run_helpers.UntestedAccuracy"},
    "even": {"class_path": "tests.support.run_helpers.EvenTokens"},
}


class Scripted(Engine):
    """Answers with given texts, `texts[uid]`, at log-probabilities of the policy itself."""

    def __init__(self, texts: Mapping[str, Sequence[str]]) -> None:
        self.texts = texts

    def start(self, policy: Policy, encoder: PromptEncoder, sampling: Sampling) -> None:
        self.policy, self.tokenizer = policy, encoder.tokenizer

    def update_weights(self, policy: Policy) -> None:
        pass

    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        groups = [[self._unscored(text) for text in self.texts[p.uid]] for p in prompts]
        everything = torch.ones(len(prompts), group_size, dtype=torch.bool)
        rows = Rows.build(prompts, groups, trained=everything)
        with torch.no_grad():
            logprobs = self.policy.logprobs(rows, temperature=sampling.softmax_temperature).logprobs
        own = iter(zip(logprobs.float(), rows.lengths.tolist(), strict=True))
        return [[self._with(c, *next(own)) for c in group] for group in groups]

    def _unscored(self, text: str) -> Completion:
        ids = torch.tensor(self.tokenizer.encode(text + "<|im_end|>"))
        return Completion(ids, torch.zeros(len(ids)), "stop", text)

    def _with(self, completion: Completion, logprobs: Tensor, length: int) -> Completion:
        return Completion(completion.token_ids, logprobs[:length], "stop", completion.text)


class Memory(TransformersEngine):
    """Samples each problem once and answers with the same group whenever it is asked again."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: dict[str, list[Completion]] = {}

    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        new = [prompt for prompt in prompts if prompt.uid not in self.groups]
        if new:
            sampled = super().generate(new, group_size=group_size, sampling=sampling, seed=seed)
            self.groups |= {p.uid: group for p, group in zip(new, sampled, strict=True)}
        return [self.groups[prompt.uid] for prompt in prompts]


class Listening(TransformersEngine):
    """Records the calls of the engine, the packed prompts of the policy's forwards, and the pixels
    and grids that reach the vision tower, by side."""

    calls: list[tuple[Sequence[Prompt], dict[str, Any]]]
    packed: list[Any]
    pixels: dict[str, list[tuple[Tensor, Tensor]]]

    def start(self, policy: Policy, encoder: PromptEncoder, sampling: Sampling) -> None:
        super().start(policy, encoder, sampling)
        self.calls, self.packed, self.pixels = [], [], {"engine": [], "trainer": []}
        policy.register_forward_pre_hook(lambda _, args: self._packed(args[0]))
        policy.part("vision_tower").register_forward_pre_hook(
            lambda tower, args, kwargs: self._saw(tower, *args, **kwargs), with_kwargs=True
        )

    def _packed(self, inputs: Packed | Images) -> None:
        if isinstance(inputs, Packed):
            self.packed.append(inputs)

    def _saw(self, tower: Any, hidden_states: Tensor, grid_thw: Tensor, **_: Any) -> None:
        side = "trainer" if tower.training else "engine"  # the engine decodes in evaluation mode
        self.pixels[side].append((hidden_states.detach().clone(), grid_thw.clone()))

    def generate(self, prompts: Sequence[Prompt], **how: Any) -> list[list[Completion]]:
        self.calls.append((prompts, how))
        return super().generate(prompts, **how)


class Recorder(RLModule):
    """Records the batch of each step and the gradients that each update applied."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.batches: list[Batch] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.metrics: list[dict[str, float]] = []

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        grads = {n: p.grad for n, p in self.policy.named_parameters() if p.grad is not None}
        self.gradients.append({name: grad.clone() for name, grad in grads.items()})

    def training_step(self, prompts: Sequence[Prompt], batch_idx: int) -> dict[str, Step]:
        outputs = super().training_step(prompts, batch_idx)
        self.metrics.append(outputs["step"].metrics)
        if outputs["step"].rows.prompts:
            self.batches.append(outputs["step"].rows)
        return outputs


class FixedPrompts(L.LightningDataModule):
    """The given prompts at every step."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        super().__init__()
        self.prompts = list(prompts)

    def train_dataloader(self) -> "FixedPrompts":
        return self  # Lightning takes a list for several loaders

    def __iter__(self) -> Iterator[list[Prompt]]:
        return itertools.repeat(self.prompts)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, _: int) -> Any:
        return batch


def problems(count: int, **changes: str) -> list[Problem]:
    """Return synthetic problems held in memory."""
    made = []
    for problem in synthetic.generate("train", count, seed=7):
        file = io.BytesIO()
        problem.image.save(file, "PNG")
        row = problem.row("")
        fields = {"answer": row["answer"], "answer_type": "number", "task": row["task"]} | changes
        made.append(
            Problem(row["uid"], row["problem"], images=(file.getvalue(),), **fields)  # type: ignore[arg-type]
        )
    return made


def build_module(
    policy: Policy, encoder: PromptEncoder, kind: type[Recorder] = Recorder, **changes: Any
) -> Recorder:
    """Build a module of 12-token completions in groups of 4; `changes` replace its parts."""
    accuracy = UntestedAccuracy(weight=0.5)
    parts: dict[str, Any] = {
        "policy": policy,
        "encoder": encoder,
        "engine": TransformersEngine(),
        "reward": Reward({"accuracy": accuracy, "even": EvenTokens()}, max_unscored_frac=1.0),
        "advantage": Centered(),
        "objective": LUSPO(),
        "sampling": Sampling(1.0, 12),
        "updates": UpdateSettings(max_grad_norm=None),
        "optimizer": OptimizerSettings(lr=1e-3),
        "validation": ValidationSettings(),
        "group_size": 4,
        "steps": 1,
        "seed": 0,
    }
    return kind(**parts | changes)


def run_module(module: Recorder, prompts: Sequence[Prompt], *callbacks: L.Callback) -> Recorder:
    """Train for the module's number of steps, on the same prompts at each."""
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        logger=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    with module.reward:
        trainer.fit(module, datamodule=FixedPrompts(prompts))
    return module


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    """Copy its state."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def command(policy: Path, data: Path, run_dir: Path, *more: str, **overrides: object) -> list[str]:
    """Return the command line of a small run; `overrides` name keys with `__` for dots."""
    values: dict[str, object] = {
        "policy.path": policy,
        "data.train": json.dumps([{"path": str(data / "train.jsonl")}]),
        "data.val": json.dumps([{"path": str(data / "val.jsonl")}]),
        "data.prompts_per_step": 2,
        "reward.terms": json.dumps(REWARD_TERMS),
        "group_size": 4,
        "sampling.max_completion_tokens": 12,
        "optimizer.lr": 1e-3,
        "checkpoint.every_n_steps": 3,
        "validation.every_n_steps": 3,
        "logging.wandb": "off",
        "run_dir": run_dir,
        "steps": 6,
    }
    values |= {key.replace("__", "."): value for key, value in overrides.items()}
    return ["--config", str(QUICKSTART), *(f"--{k}={v}" for k, v in values.items()), *more]


def rollouts(run_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """Read every rollout file of a run, by name."""
    return {
        path.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted((run_dir / "rollouts").glob("*.jsonl"))
    }


def trainer_checkpoint(run_dir: Path, step: int) -> dict[str, Any]:
    path = run_dir / "checkpoints" / f"step_{step}" / "trainer.ckpt"
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


def same(a: object, b: object) -> bool:
    """Whether nested containers of tensors are equal to the last bit, a tuple as its list: some
    formats of checkpoints know no tuples."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return a == b
