"""The Lightning Trainer of a run, and which of its arguments are ours."""

from pathlib import Path

import lightning as L
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException

from vlm_rl import ranks
from vlm_rl.distributed import strategies

OURS = {
    "logger": "logging.wandb",
    "max_steps": "steps",
    "max_epochs": "steps",
    "max_time": "steps",
    "limit_train_batches": "steps",
    "limit_val_batches": "data.val_problems",
    "overfit_batches": "data.train",
    "val_check_interval": "validation.every_n_steps",
    "check_val_every_n_epoch": "validation.every_n_steps",
    "enable_checkpointing": "checkpoint.every_n_steps",
    "accumulate_grad_batches": "updates.micro_batch_tokens",
    "gradient_clip_val": "updates.max_grad_norm",
    "gradient_clip_algorithm": "updates.max_grad_norm",
    "default_root_dir": "run_dir",
} | dict.fromkeys(
    [
        "callbacks",
        "min_epochs",
        "min_steps",
        "limit_test_batches",
        "limit_predict_batches",
        "num_sanity_val_steps",
        "log_every_n_steps",
        "enable_progress_bar",
        "enable_model_summary",
        "use_distributed_sampler",
        "reload_dataloaders_every_n_epochs",
        "fast_dev_run",
        "barebones",
        "inference_mode",
        "model_registry",
        "enable_autolog_hparams",
    ],
    "",
)
"""Arguments of the Trainer that the training step decides itself, and what to set instead."""

ELSEWHERE = {f"trainer.{name}": key for name, key in OURS.items()}
"""The same as keys of a configuration."""

PRECISIONS = ("32-true", "bf16-mixed", "32", 32, None)


def build_trainer(config: Namespace) -> L.Trainer:
    """Build the Trainer, without loggers and callbacks yet: those write into the run's folder."""
    if config.trainer.precision not in PRECISIONS:
        raise ValueError(
            f"trainer.precision must be one of {', '.join(map(str, PRECISIONS[:2]))}, got "
            f"{config.trainer.precision}; weights stay float32, in bfloat16 small updates vanish"
        )
    try:
        trainer = _build_trainer(config)
    except MisconfigurationException as error:
        raise ValueError(f"trainer: {error}") from error
    launcher = ranks.launched()
    if launcher is not None and launcher[1] != trainer.world_size:
        # under strategy auto each of them would be a run of its own, in one folder
        raise ValueError(
            f"{launcher[0]} has started {launcher[1]} processes, but trainer.num_nodes="
            f"{config.trainer.num_nodes} and trainer.devices={config.trainer.devices} make "
            f"{trainer.world_size}; set both to what was started"
        )
    if config.data.prompts_per_step < trainer.world_size:
        raise ValueError(
            f"data.prompts_per_step={config.data.prompts_per_step} is less than one for each of "
            f"{trainer.world_size} processes; raise it, or lower trainer.devices"
        )
    return trainer


def _build_trainer(config: Namespace) -> L.Trainer:
    run_dir = Path(config.run_dir)
    strategy = strategies.build(config.trainer.strategy, config.trainer.precision)
    return L.Trainer(
        **vars(config.trainer) | {"strategy": strategy},
        default_root_dir=run_dir,
        logger=False,
        max_epochs=-1,  # the module stops the run at its number of steps
        num_sanity_val_steps=-1,  # the whole validation before the first step
        val_check_interval=config.validation.every_n_steps,
        check_val_every_n_epoch=None,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
