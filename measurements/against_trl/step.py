"""Whole steps: `vlm_rl.fit` and `GRPOTrainer.train` in one process, a step of each in turn.

Each loop runs in a thread of its own and hands over when a step of it is done, so that the CPU time
of the process between two hand-overs is that of one step with all that belongs to it: rollout,
rewards, log-probs, updates and what is logged. Ours is configs/quickstart.yaml with GRPO; the
reward of TRL costs nothing, ours checks answers as always.
"""

import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from data_prep import synthetic
from measurements.against_trl.points import Point
from measurements.against_trl.trl_side import SETTINGS, Setting, common_settings, use_head
from measurements.against_trl.turns import Turns
from measurements.rollout_engines import problems
from vlm_rl import fit
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.records import Completion, Prompt
from vlm_rl.rollout import TransformersEngine

REPOSITORY = Path(__file__).parents[2]
WARM_START = str(REPOSITORY / "data_prep" / "warm_start")
ROWS_AT_ONCE = {"best": 64, "as_it_comes": 8}
"""Rows of a forward of TRL, at most: what was fastest of 8, 16, 32 and 64, and its default."""


class TurningEngine(TransformersEngine):
    """The engine of the run, which knows when a step begins: at its rollout."""

    turns: ClassVar[Turns]

    def generate(self, prompts: Any, *, group_size: int, **how: Any) -> list[list[Completion]]:
        if group_size > 1:  # a validation has one answer for each problem
            self.turns.end_lap("ours")
        return super().generate(prompts, group_size=group_size, **how)


class TurningCallback(TrainerCallback):
    """Hands over where TRL has done the updates of a step."""

    def __init__(self, name: str, turns: Turns, num_updates: int) -> None:
        self.name, self.turns, self.num_updates = name, turns, num_updates

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._hand_over()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.num_updates == 0:
            self._hand_over()

    def _hand_over(self) -> None:
        self.turns.end_lap(self.name)
        use_head(SETTINGS[self.name])  # one switch for all trainers of the process


def build_model() -> Any:
    """Return the shipped tiny model, with which the steps are made."""
    return AutoModelForImageTextToText.from_pretrained(WARM_START)


def build_encoder() -> PromptEncoder:
    return PromptEncoder(WARM_START, max_prompt_tokens=256)


def build_prompts(encoder: PromptEncoder) -> list[Prompt]:
    return [encoder.encode(problem) for problem in problems(2)]


def measure(point: Point, num_laps: int) -> dict[str, list[float]]:
    """Return CPU seconds of `num_laps` steps of each; a first step of each warms up."""
    turns = Turns(["ours", *SETTINGS], num_laps + 1)
    with tempfile.TemporaryDirectory() as folder:
        count = point.num_prompts * 8
        data = synthetic.write(Path(folder), "train", count, seed=0, difficulty=(2, 3, 4))
        held_out = synthetic.write(Path(folder), "val", 2, seed=0, difficulty=(2,))
        threads = []
        for name, setting in SETTINGS.items():
            loop = partial(train_trl, point, name, setting, turns, Path(folder))
            threads.append(threading.Thread(target=turns.carry_out, args=(loop,), daemon=True))
            threads[-1].start()
            turns.wait_for_arrival(name)  # one loads at a time: loading changes torch's defaults
        TurningEngine.turns = turns
        run_dir = Path(folder) / "run"
        turns.carry_out(partial(train_ours, point, turns, data, held_out, run_dir))
        for thread in threads:
            thread.join()
    turns.raise_failure()
    return {name: laps[1:] for name, laps in turns.seconds.items()}


def train_ours(point: Point, turns: Turns, data: Path, held_out: Path, run_dir: Path) -> None:
    """Run `vlm_rl.fit` for a step more than is measured, as a step ends where the next begins."""
    settings = {
        "run_dir": run_dir,
        "steps": turns.num_laps + 1,
        "policy.path": WARM_START,
        "data.train": f"[{{path: {data}}}]",
        "data.val": f"[{{path: {held_out}}}]",
        "data.prompts_per_step": point.num_prompts,
        "engine": "measurements.against_trl.step.TurningEngine",
        "sampling.max_completion_tokens": point.answer_tokens,
        "group_size": point.group_size,
        "objective": "vlm_rl.objectives.GRPO",
        "updates.num_minibatches": point.num_updates,
        "optimizer.lr": 1e-6,
        "validation.every_n_steps": 1 << 20,
        "checkpoint.every_n_steps": 1 << 20,
        "logging.wandb": "off",
    }
    argv = ["--config", str(REPOSITORY / "configs" / "quickstart.yaml")]
    fit.fit(argv + [f"--{key}={value}" for key, value in settings.items()])


def train_trl(point: Point, name: str, setting: Setting, turns: Turns, folder: Path) -> None:
    """Run `GRPOTrainer.train` for the steps that are measured."""
    num_rows = point.num_prompts * point.group_size
    num_forwards = max(point.num_updates, num_rows // ROWS_AT_ONCE[setting])
    arguments = GRPOConfig(
        **common_settings(str(folder / name)),
        num_generations=point.group_size,
        per_device_train_batch_size=num_rows // num_forwards,
        gradient_accumulation_steps=num_forwards // point.num_updates,
        steps_per_generation=num_forwards,
        max_completion_length=point.answer_tokens,
        max_steps=turns.num_laps * point.num_updates,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        gradient_checkpointing=setting == "as_it_comes",
        logging_steps=1,
    )
    trainer = GRPOTrainer(
        build_model(),
        odd_length,
        args=arguments,
        processing_class=AutoProcessor.from_pretrained(WARM_START),
        train_dataset=conversations(point.num_prompts * 8),
        callbacks=[TurningCallback(name, turns, point.num_updates)],
    )
    trainer.train()


def odd_length(completions: Any, completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Reward answers of an odd number of tokens: about every other."""
    return [float(len(ids) % 2) for ids in completion_ids]


def conversations(count: int) -> Dataset:
    """Return the problems of our side's file as TRL reads them."""
    rows = synthetic.generate("train", count, seed=0, difficulty=(2, 3, 4))
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": row.question}], "image": row.image}
            for row in rows
        ]
    )
