"""AdamW over the trained parameters, the vision tower in a group of its own, and its schedule."""

from typing import Any

import torch
from transformers import get_scheduler

from vlm_rl.model.policy import Policy
from vlm_rl.training.settings import OptimizerSettings


def build_optimizer(
    policy: Policy, settings: OptimizerSettings, num_updates: int
) -> tuple[torch.optim.Optimizer, Any]:
    """Build the optimizer and its scheduler, which moves once an update, `num_updates` in all.

    Raises ValueError if every part of the policy is frozen.
    """
    tower = {id(p) for p in policy.part("vision_tower").parameters()}
    trained = [p for p in policy.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("every part of the policy is frozen; leave one out of policy.freeze")
    vision_lr = settings.lr if settings.vision_lr is None else settings.vision_lr
    groups = [
        {"params": [p for p in trained if id(p) not in tower], "lr": settings.lr},
        {"params": [p for p in trained if id(p) in tower], "lr": vision_lr},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
    scheduler = get_scheduler(
        settings.schedule if settings.schedule != "constant" else "constant_with_warmup",
        optimizer,
        num_warmup_steps=settings.warmup_updates,
        num_training_steps=num_updates,
    )
    return optimizer, scheduler
