"""TRL's side: its own `GRPOTrainer` does the same work on the same rows.

`best` is TRL at its fastest here: without gradient checkpointing, and with the head for completion
positions alone, which TRL does on a GPU only. `as_it_comes` is what it does by default on a CPU:
gradient checkpointing in the update, and the head at every position.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import trl.trainer.utils
from datasets import Dataset
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from measurements.against_trl.ours import CLIP
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.records import Batch, Prompt

Setting = Literal["best", "as_it_comes"]
SETTINGS: dict[str, Setting] = {"trl": "best", "as_it_comes": "as_it_comes"}
"""By the names that their measurements have."""

VISION = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
_as_installed = trl.trainer.utils._use_triton


class Prepared(GRPOTrainer):
    """TRL's trainer, to which the scored completions are given."""

    given: dict[str, Any]

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        return dict(self.given)


class Theirs:
    """The work of TRL on the rows of one `batch`; on a GPU in bfloat16 with float32 weights."""

    def __init__(
        self, model: Any, encoder: PromptEncoder, batch: Batch, *, on_gpu: bool = False
    ) -> None:
        self._encoder = encoder
        self._folder = tempfile.TemporaryDirectory()
        group_size = len(batch) // len(batch.prompts)
        self.trainer = Prepared(
            model,
            no_reward,
            args=GRPOConfig(
                **common_settings(self._folder.name, on_gpu=on_gpu),
                num_generations=group_size,
                per_device_train_batch_size=len(batch),
                max_completion_length=batch.completion_mask.shape[1],
                gradient_checkpointing=False,
            ),
            processing_class=encoder.processor,
            train_dataset=Dataset.from_dict({"prompt": ["a", "b"]}),
        )
        self.trainer.current_gradient_accumulation_steps = 1
        self.take(batch)
        self.use("best")

    def take(self, batch: Batch) -> None:
        """Work on these rows from now on."""
        self.batch = batch
        self.trainer.given = moved(scored(batch, self._encoder), self.trainer.accelerator.device)

    def use(self, setting: Setting) -> None:
        """Switch to `setting`, for all of TRL in this process and for this model."""
        use_head(setting)
        if setting == "best":
            self.trainer.model.gradient_checkpointing_disable()
        else:
            self.trainer.model.gradient_checkpointing_enable()

    def update(self) -> float:
        """Do forward, loss and backward; return the loss and leave gradients of this batch only."""
        self.trainer.model.zero_grad(set_to_none=True)
        self.trainer._step, self.trainer._buffered_inputs = 0, None
        return float(self.trainer.training_step(self.trainer.model.train(), {}, None))

    def logprobs(self) -> Tensor:
        """Return log-probabilities [B, T] without gradients."""
        given = self.trainer.given
        ids = torch.cat([given["prompt_ids"], given["completion_ids"]], 1)
        attention = torch.cat([given["prompt_mask"], given["completion_mask"]], 1)
        vision = {name: given[name] for name in VISION if name in given}
        with torch.no_grad(), self._no_checkpoints():
            logprobs, _, _ = self.trainer._get_per_token_logps_and_entropies(
                self.trainer.model, ids, attention, given["completion_ids"].shape[1], **vision
            )
        return torch.where(given["completion_mask"].bool(), logprobs, 0.0)

    @contextmanager
    def _no_checkpoints(self) -> Iterator[None]:
        """Work as TRL does without gradients."""
        model = self.trainer.model
        was_on = model.is_gradient_checkpointing
        model.gradient_checkpointing_disable()
        try:
            yield
        finally:
            if was_on:
                model.gradient_checkpointing_enable()

    def rollout(self, prompts: list[Prompt], group_size: int, max_tokens: int) -> list[list[int]]:
        """Return the sampled ids of each completion, with TRL's `generate`."""
        trainer = self.trainer
        trainer.generation_config.max_new_tokens = max_tokens
        repeated = [prompt for prompt in prompts for _ in range(group_size)]
        ids = [prompt.token_ids.tolist() for prompt in repeated]
        image = trainer.model.config.image_token_id
        vision = pixels_of(repeated)
        vision.pop("num_images", None)
        if vision:
            vision["mm_token_type_ids"] = [[int(token == image) for token in row] for row in ids]
        with trainer.accelerator.autocast():  # `train` would have put it around the forward
            completions, _ = trainer._generate_single_turn(ids, None, vision, group_size)
        return completions


def no_reward(completions: list[Any], **_: Any) -> list[float]:
    """Give nothing: the advantages come with the rows."""
    return [0.0] * len(completions)


def use_head(setting: Setting) -> None:
    """Choose at which positions TRL computes the head."""
    always = setting == "best"
    trl.trainer.utils._use_triton = (lambda _: True) if always else _as_installed


def common_settings(folder: str, *, on_gpu: bool = False) -> dict[str, Any]:
    """Return what a `GRPOConfig` needs to do what our side does, and nothing else on the way."""
    return {
        "output_dir": folder,
        "report_to": [],
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "disable_tqdm": True,
        "save_strategy": "no",
        "loss_type": "grpo",
        "epsilon": CLIP,
        "beta": 0.0,
    }


def scored(batch: Batch, encoder: PromptEncoder) -> dict[str, Any]:
    """Return the rows as TRL has them after its rollout: prompts padded on the left."""
    prompts = [batch.prompts[owner] for owner in batch.row_prompt.tolist()]
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), encoder.tokenizer.pad_token_id)
    attention = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt.token_ids
        attention[row, width - len(prompt) :] = 1
    given = {
        "prompt_ids": ids,
        "prompt_mask": attention,
        "completion_ids": batch.completion_ids,
        "completion_mask": batch.completion_mask.long(),
        "advantages": batch.advantages[:, 0],
        "old_per_token_logps": batch.old_logprobs,
        "num_items_in_batch": batch.completion_mask.sum(),
    }
    vision = pixels_of(prompts)
    if vision:
        shown = (ids == encoder.image_token_id).long()
        vision["mm_token_type_ids"] = torch.cat([shown, torch.zeros_like(batch.completion_ids)], 1)
    return given | vision


def pixels_of(prompts: list[Prompt]) -> dict[str, Any]:
    """Return what TRL's processor gives for the images of all rows, once for each row."""
    pixels = [prompt.pixel_values for prompt in prompts if prompt.pixel_values is not None]
    if not pixels:
        return {}
    grids = [prompt.grid_thw for prompt in prompts if prompt.grid_thw is not None]
    return {
        "pixel_values": torch.cat(pixels),
        "image_grid_thw": torch.cat(grids),
        "num_images": [len(prompt.images) for prompt in prompts],
    }


def moved(given: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in given.items()}
