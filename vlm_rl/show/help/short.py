"""The short pages: what a program does, examples, and the keys that are set most."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser


class ShortPage(NamedTuple):
    """`keys` says of each key what it is, in a few words; its default is the parser's."""

    text: str
    examples: tuple[str, ...]
    keys: Mapping[str, str]


_CONFIG = "a recipe or YAML file, or several"

_RUN = {
    "config": _CONFIG,
    "run_dir": "the folder of the run",
    "steps": "of the whole run: a rollout, and its updates",
    "seed": "of data order, sampling and weights",
    "group_size": "completions per prompt",
    "policy.path": "a checkpoint folder or hub id",
    "policy.freeze": "[vision_tower], [language_model], [router]",
    "policy.lora": "{rank: 16, ...}: train adapters only",
    "data.train": "[{path: FILE_OR_HUB_ID}, ...]",
    "data.val": "the same, held out",
    "data.prompts_per_step": "over all GPUs",
    "prompt.style": "how an answer is asked for: boxed_think, ...",
    "prompt.max_pixels": "images above are made smaller",
    "prompt.max_prompt_tokens": "longer prompts are left out",
    "sampling.max_completion_tokens": "an answer is cut there",
    "engine": "vlm_rl.rollout.TransformersEngine, VLLMEngine",
    "reward.terms": "{NAME: {class_path: ..., init_args: ...}, ...}",
    "advantage": "vlm_rl.advantages.Normalized, ...",
    "objective": "vlm_rl.objectives.LUSPO, GSPO, GRPO, FSPO, ...",
    "optimizer.lr": "learning rate of AdamW",
    "updates.micro_batch_tokens": "tokens of one forward",
    "validation.every_n_steps": "steps between two measurements on data.val",
    "checkpoint.every_n_steps": "steps between two checkpoints",
    "trainer.devices": "GPUs of a machine",
    "trainer.strategy": "ddp, fsdp2, zero2, ...",
}

SHORT = {
    "fit": ShortPage(
        "Train a policy. The same command again resumes from the last checkpoint.",
        (
            "vlm-rl fit --config quickstart",
            "vlm-rl fit --config quickstart --config objective/fspo --run_dir runs/fspo",
            "vlm-rl fit --config RUN.yaml --steps 200 --optimizer.lr 2e-6",
        ),
        _RUN,
    ),
    "preflight": ShortPage(
        "What can be wrong with a run, before it begins: a screen and a page. Nothing is trained.\n"
        "The keys are those of `vlm-rl fit`.",
        ("vlm-rl preflight --config quickstart", "vlm-rl preflight --config RUN.yaml --problems 0"),
        {
            **{key: _RUN[key] for key in ("config", "run_dir", "policy.path", "data.train")},
            "problems": "of the small rollout; 0: none",
            "page": "the HTML file; by default RUN_DIR.preflight.html",
        },
    ),
    "hardware": ShortPage(
        "How much memory a run needs, by arithmetic. The keys are those of `vlm-rl fit`.",
        ("vlm-rl hardware --config luspo_qwen2_5_vl_7b_geometry3k --trainer.devices 8",),
        {
            key: _RUN[key]
            for key in (
                *("config", "group_size", "policy.path", "policy.freeze", "policy.lora"),
                *("prompt.max_prompt_tokens", "sampling.max_completion_tokens", "engine"),
                *("updates.micro_batch_tokens", "trainer.devices", "trainer.strategy"),
            )
        },
    ),
    "evaluate": ShortPage(
        "Measure a checkpoint on benchmarks, score responses made elsewhere, or compare two\n"
        "evaluations. The same command again resumes where it was stopped.",
        (
            "vlm-rl evaluate --model runs/quickstart/checkpoints/best/hf --benchmark mathvista",
            "vlm-rl evaluate --responses FILE.jsonl --benchmark mathvision:test",
            "vlm-rl evaluate --compare runs/evaluate/BEFORE runs/evaluate/AFTER",
        ),
        {
            "config": _CONFIG,
            "model": "folders or hub ids; several make one table",
            "benchmark": "NAME[:SPLIT] or FILE, several",
            "data": "{NAME: FOLDER}: local copies",
            "output": "runs/evaluate/MODEL",
            "limit": "problems of each benchmark",
            "samples_per_problem": "answers to each: what the benchmark says",
            "blind": "also ask without the images",
            "prompt.style": "how an answer is asked for",
            "prompt.max_pixels": "images above are made smaller",
            "sampling.temperature": "0: the likeliest token",
            "sampling.max_completion_tokens": "an answer is cut there",
            "engine": "or vlm_rl.rollout.VLLMEngine, ...",
        },
    ),
}


def short_page(name: str, parser: ArgumentParser) -> str:
    """Return the page of a program. Raises KeyError for a key that its parser does not have."""
    text, examples, keys = SHORT[name]
    defaults = parser.get_defaults(skip_validation=True)
    actions = {action.dest: action for action in parser._actions}
    required = {dest for dest, action in actions.items() if action.required}
    required |= set(parser._extra_required_keys)
    rows = [
        (f"--{key}", "" if key == "config" else _default(key, defaults, required), what)
        for key, what in keys.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"  {key:<{widths[0]}}  {default:<{widths[1]}}  {what}" for key, default, what in rows]
    count = len(set(defaults.keys()) - {"config"})
    return "\n".join(
        [
            f"usage: vlm-rl {name} [--KEY VALUE ...]",
            *("", text, ""),
            *(f"  {line}" for line in examples),
            *("", "The keys that are set most, with their defaults:", ""),
            *lines,
            "",
            f"--help=all explains all {count} keys, --KEY.help CLASS the arguments of a class, and",
            "--print_config shows what all files and keys together come to.",
            "",
        ]
    )


def _default(key: str, defaults: Any, required: set[str]) -> str:
    if key in required:
        return "required"
    value = defaults[key]
    if hasattr(value, "class_path"):
        value = value.class_path
    if value is None or value in ((), [], {}):
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value).rpartition(".rollout.")[2]
