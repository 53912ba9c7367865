"""Keys as TRL, EasyR1, verl and transformers name them, and where the same is set here.

A refused key is looked up by its last part, before anything is guessed from its spelling.
"""

_LEARNING = "optimizer.lr"
_BATCH = "data.prompts_per_step (problems a step; memory is updates.micro_batch_tokens)"
_KL = "objective.init_args.regularizers '[{class_path: vlm_rl.objectives.KL}]'"
_CLIP = "objective.init_args.clip_low and clip_high"
_TOWER = "policy.freeze '[vision_tower]'"
_LORA = "policy.lora '{rank: 16, alpha: 32, parts: [language_model]}'"
_VLLM = "engine vlm_rl.rollout.VLLMEngine"
_PRECISION = "trainer.precision bf16-mixed"

PEER_NAMES = {
    "actor_rollout_ref": "policy, engine and updates",
    "adam_beta1": "optimizer.betas",
    "adam_beta2": "optimizer.betas",
    "advantage_estimator": "advantage",
    "adv_estimator": "advantage",
    "batch_size": _BATCH,
    "beta": _KL,
    "bf16": _PRECISION,
    "clip_ratio": _CLIP,
    "epochs": "steps (rollouts of the whole run)",
    "epsilon": _CLIP,
    "epsilon_high": _CLIP,
    "eval_steps": "validation.every_n_steps",
    "fp16": _PRECISION,
    "freeze_vision_modules": _TOWER,
    "freeze_vision_tower": _TOWER,
    "gradient_accumulation_steps": "updates.num_minibatches (a step's updates) and "
    "updates.micro_batch_tokens (memory)",
    "kl_coef": _KL,
    "learning_rate": _LEARNING,
    "logging_dir": "run_dir",
    "lora_alpha": _LORA,
    "lora_r": _LORA,
    "lora_rank": _LORA,
    "loss_type": "objective",
    "lr_scheduler_type": "optimizer.schedule",
    "max_completion_length": "sampling.max_completion_tokens",
    "max_grad_norm": "updates.max_grad_norm",
    "max_new_tokens": "sampling.max_completion_tokens",
    "max_prompt_length": "prompt.max_prompt_tokens",
    "max_response_length": "sampling.max_completion_tokens",
    "max_tokens": "sampling.max_completion_tokens",
    "mini_batch_size": "updates.num_minibatches",
    "model_name_or_path": "policy.path",
    "model": "policy.path",
    "model_path": "policy.path",
    "n_gpus_per_node": "trainer.devices",
    "num_generations": "group_size",
    "num_iterations": "updates.num_minibatches (each row is trained on once a step)",
    "num_train_epochs": "steps (rollouts of the whole run)",
    "output_dir": "run_dir",
    "per_device_eval_batch_size": "data.val_batch_prompts",
    "per_device_train_batch_size": _BATCH,
    "ppo_mini_batch_size": "updates.num_minibatches",
    "project_name": "logging.project",
    "report_to": "logging.trackers and logging.wandb",
    "reward_funcs": "reward.terms",
    "rollout_batch_size": "data.prompts_per_step",
    "save_freq": "checkpoint.every_n_steps",
    "save_limit": "checkpoint.keep_last",
    "save_steps": "checkpoint.every_n_steps",
    "save_total_limit": "checkpoint.keep_last",
    "test_freq": "validation.every_n_steps",
    "total_epochs": "steps (rollouts of the whole run)",
    "train_batch_size": _BATCH,
    "train_files": "data.train '[{path: FILE}]'",
    "use_peft": _LORA,
    "use_vllm": _VLLM,
    "val_files": "data.val '[{path: FILE}]'",
    "warmup_ratio": "optimizer.warmup_updates",
    "warmup_steps": "optimizer.warmup_updates",
}
"""From their last part to a key here, with what else is to be said after it."""

PEER_VALUES = {
    "objective=ppo": "vlm_rl.objectives.GRPO (PPO's clip; advantages of groups, no critic)",
    "trainer.precision=fp16": "bf16-mixed",
}
"""From a value that a key does not take to one that it does."""
