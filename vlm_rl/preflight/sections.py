"""Every section of a configuration that is refused, not the first one alone.

A parser stops at the first fault. So each top-level key is read once more beside sections that are
known to be right.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vlm_rl.config import read_file
from vlm_rl.recipes.finding import with_files
from vlm_rl.show.json_text import json_text

RIGHT: dict[str, Any] = {
    "run_dir": "run",
    "steps": 1,
    "policy": {"path": "policy"},
    "data": {"train": [{"path": "train.jsonl"}], "val": [], "prompts_per_step": 1},
    "engine": {"class_path": "vlm_rl.rollout.TransformersEngine"},
    "reward": {"terms": {"accuracy": {"class_path": "vlm_rl.rewards.Accuracy"}}},
    "advantage": {"class_path": "vlm_rl.advantages.Normalized"},
    "objective": {"class_path": "vlm_rl.objectives.GRPO"},
}
"""The sections that every configuration needs."""


def refused_sections(argv: Sequence[str], build: Callable[[Sequence[str]], object]) -> list[str]:
    """Return the line with which `build` refuses each section that `argv` sets, or that it lacks.

    A section is a key at the top of a file, or before the first dot of an option. Nothing is
    returned if no section is wrong by itself, or a file cannot be read.
    """
    try:
        parts = list(_parts(with_files(argv)))
    except ValueError:
        return []
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for key in dict.fromkeys([*(key for key, _ in parts), *RIGHT]):
            own = [value for name, value in parts if name == key]
            others = {name: value for name, value in RIGHT.items() if name != key}
            try:
                build([*_files([others, *own], Path(folder)), *_options(own)])
            except ValueError as error:
                lines.append(str(error))
    return list(dict.fromkeys(lines))


def _parts(argv: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield the sections with what is set in them: of a file a mapping, of options their words."""
    words = iter(argv)
    for word in words:
        option, has_value, value = word.partition("=")
        if option != "--config":
            given = [word] if has_value else [word, next(words, "")]
            yield option.removeprefix("--").partition(".")[0], given
            continue
        for key, content in read_file(value if has_value else next(words, "")).items():
            yield key, {key: content}


def _files(contents: Sequence[Any], folder: Path) -> Iterator[str]:
    for number, content in enumerate(contents):
        if isinstance(content, dict):
            path = folder / f"{number}.yaml"
            path.write_text(json_text(content), encoding="utf-8")  # JSON is YAML
            yield f"--config={path}"


def _options(contents: Sequence[Any]) -> Iterator[str]:
    for content in contents:
        if isinstance(content, list):
            yield from content
