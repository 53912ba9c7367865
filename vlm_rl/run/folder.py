"""The folder of a run: what is in it, and whether a new start may resume it.

lock                       the process that owns the folder now
config.yaml                the resolved configuration
metrics.csv                a row per step and per validation
rollouts/step_000001.jsonl every completion of that step
tokens/step_000001.jsonl   what the step did to each token of a few completions
images/                    the images of the rollouts as the model saw them
checkpoints/step_N/        `hf/` for `from_pretrained`, `trainer.ckpt` to resume from, and
                           `SHA256SUMS` of `hf/`
checkpoints/best           link to the one with the highest validation accuracy
heartbeat/rank_0.json      what each rank is doing
plots/  summary.json       at the end
"""

import hashlib
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from vlm_rl import ranks
from vlm_rl.disk.files import PARTIAL, Damaged, read_json, read_text, read_yaml, write_text
from vlm_rl.distributed import strategies
from vlm_rl.run.lock import LOCK, FolderLock

CONFIG = "config.yaml"
SUMMARY = "summary.json"
RESUMABLE_KEYS = (
    "steps",
    "run_dir",
    "logging",
    "checkpoint",
    "rollouts",
    "hang_timeout_s",
    "profile",
)
"""Keys that may change when a run resumes: none of them decides which numbers it computes."""

RESUMABLE_DATA_KEYS = ("accept_changes",)
"""It is about a resume."""

RESUMABLE_TRAINER_KEYS = ("devices", "num_nodes", "strategy")
"""A run may resume on other ranks: its prompts and updates stay the same, its samples do not."""

SUMS = "SHA256SUMS"
"""What `sha256sum --check` reads: the files of a checkpoint for `from_pretrained`, which have no
checksums of their own, as torch's archives have."""

_STEP = re.compile(r"step_([0-9]+)")
_SUM = re.compile(r"([0-9a-f]{64})  ([^/].*)")

_SHOWN = 200

_FILES = (CONFIG, SUMMARY, "metrics.csv", "length_fairness.json", "skipped.jsonl")
_FOLDERS = (
    "checkpoints",
    "rollouts",
    "tokens",
    "images",
    "heartbeat",
    "plots",
    "evaluations",
    "trace",
    "wandb",
)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint of a run: its step and its folder."""

    step: int
    folder: Path

    @property
    def trainer_file(self) -> Path:
        """What the Trainer resumes from; some strategies make it a folder."""
        return self.folder / "trainer.ckpt"


def step_folder(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step_{step}"


def checkpoints(run_dir: Path) -> list[Checkpoint]:
    """Return the complete checkpoints, oldest first. Half-written ones have another name."""
    paths = (run_dir / "checkpoints").glob("*")
    complete = [
        Checkpoint(int(match[1]), path)
        for path in paths
        if (match := _STEP.fullmatch(path.name)) and path.is_dir()
    ]
    return sorted(complete, key=lambda checkpoint: checkpoint.step)


def newest_checkpoint(run_dir: Path) -> Checkpoint | None:
    return next(reversed(checkpoints(run_dir)), None)


def link_best(run_dir: Path, step: int | None) -> None:
    """Point `checkpoints/best` to the checkpoint of `step`, at once; None removes the link."""
    link = run_dir / "checkpoints" / "best"
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)  # a copy of a run that followed links has a folder here
    if step is None:
        link.unlink(missing_ok=True)
        return
    partial = link.with_name(link.name + PARTIAL)
    partial.unlink(missing_ok=True)
    partial.symlink_to(step_folder(run_dir, step).name)
    partial.replace(link)


def best_checkpoint(run_dir: Path) -> Checkpoint | None:
    """Return the checkpoint with the highest validation accuracy, None without a link to it."""
    best = (run_dir / "checkpoints" / "best").resolve()
    return next((c for c in checkpoints(run_dir) if c.folder.resolve() == best), None)


def own(folder: Path, key: str) -> FolderLock:
    """Return the lock of a folder that the option `key` names, to be entered before anything in it
    is read. Raises ValueError if it cannot be written to."""
    _refuse_unwritable(folder, key)
    return FolderLock(folder, key)


def find_resume(run_dir: Path, config: Mapping[str, Any]) -> Checkpoint | None:
    """Return the checkpoint to resume from, or None for a new run. Writes nothing.

    Raises ValueError, with the ways out, if the folder holds another run, a finished one, a
    damaged checkpoint, or something that is not a run.
    """
    _refuse_wrong_kinds(run_dir)
    newest = newest_checkpoint(run_dir)
    if not (run_dir / CONFIG).exists():
        _refuse_other_files(run_dir)
        return None
    try:
        before = read_yaml(run_dir / CONFIG)
    except Damaged as damage:
        if newest is not None:
            raise ValueError(
                f"{damage}; it says which run the checkpoints belong to, so put it back, or start "
                f"a new run by --run_dir NAME --policy.path {newest.folder / 'hf'}"
            ) from damage
        ranks.print_once(f"{damage}; there is no checkpoint yet, so the run starts anew")
        return None
    _refuse_other_settings(run_dir, before, config)
    if newest is None:
        return None
    if newest.step >= config["steps"] and is_finished(run_dir, newest.step):
        raise ValueError(
            f"run_dir={run_dir} holds a run that has done its {newest.step} steps; "
            f"extend it by --steps {2 * newest.step}, or start a new one by --run_dir NAME"
        )
    _refuse_damaged(newest)
    return newest


def _refuse_wrong_kinds(run_dir: Path) -> None:
    """Name a folder, a pipe or a dangling link that stands where the run would write a file."""
    for names, is_right, kind in (
        (_FILES, Path.is_file, "a file"),
        (_FOLDERS, Path.is_dir, "a folder"),
    ):
        for path in (run_dir / name for name in names):
            if os.path.lexists(path) and not is_right(path):
                raise ValueError(
                    f"{path} must be {kind}; move away what is there, or start a new run by "
                    "--run_dir NAME"
                )


def _refuse_other_files(run_dir: Path) -> None:
    # other ranks write their heartbeats before rank 0 has saved the configuration, and a start that
    # was killed before that has left no more
    names = [path.name for path in run_dir.iterdir()] if run_dir.is_dir() else []
    others = [n for n in names if n not in (LOCK, "heartbeat") and not n.endswith(PARTIAL)]
    if others:
        raise ValueError(
            f"run_dir={run_dir} is not empty and holds no run (no {CONFIG}, but {min(others)}); "
            "give a new name by --run_dir"
        )


def _refuse_other_settings(
    run_dir: Path, before: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    changed = list(differences(_compared(before), _compared(config)))
    if config["optimizer"]["schedule"] != "constant":  # the steps shape every other schedule
        changed += differences(before.get("steps"), config["steps"], "steps")
    if changed:
        raise ValueError(
            f"run_dir={run_dir} holds a run with other settings ({'; '.join(changed[:3])}); "
            "start a new one by --run_dir NAME, or resume with the settings of its config.yaml"
        )


def is_finished(run_dir: Path, steps: int = 0) -> bool:
    """Whether the summary of at least `steps` steps is there: a run may have been stopped after its
    last step. A damaged summary is named; the end of a run writes it anew."""
    if not (run_dir / SUMMARY).exists():
        return False
    try:
        done = read_json(run_dir / SUMMARY, dict).get("steps")
        if not isinstance(done, int):
            raise Damaged(run_dir / SUMMARY, f"steps is {done!r:.40}")
    except Damaged as damage:
        ranks.print_once(f"{damage}; the run resumes and writes it anew")
        return False
    return done >= steps


def _refuse_unwritable(folder: Path, key: str) -> None:
    """Try to write before anything is loaded; the run would fail at its first step.

    What is tried is a file without a name, which leaves nothing behind.
    """
    existing = folder.absolute()
    try:
        existing.lstat()
    except (FileNotFoundError, NotADirectoryError):
        while not os.path.lexists(existing):
            existing = existing.parent
    except OSError as error:
        raise ValueError(_unwritable(folder, key, f"is no path: {error.strerror}")) from error
    if not existing.is_dir():
        kind = "a link to nothing" if existing.is_symlink() and not existing.exists() else "a file"
        raise ValueError(_unwritable(folder, key, f"{existing} is {kind}, not a folder"))
    for place in _written_folders(existing if existing != folder.absolute() else folder):
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            reason = f"this user cannot write into {place} ({error.strerror})"
            raise ValueError(_unwritable(folder, key, reason)) from error


def _written_folders(existing: Path) -> Iterator[Path]:
    """Yield a folder, and those in it that a run writes into."""
    yield existing
    for name in (
        "checkpoints",
        "heartbeat",
        "images",
        "plots",
        "rollouts",
        "tokens",
        "trace",
        "wandb",
    ):
        if (existing / name).is_dir():
            yield existing / name


def _unwritable(folder: Path, key: str, reason: str) -> str:
    return f"{key}={folder}: {reason}; give another by --{key}"


def _refuse_damaged(checkpoint: Checkpoint) -> None:
    """Raise ValueError if a byte has changed since it was written.

    torch ignores the checksums of its archives and would resume with wrong weights, and whatever
    loads `hf/` would not notice either.
    """
    damaged = next(chain(_damaged_archives(checkpoint), _damaged_sums(checkpoint)), None)
    if damaged is not None:
        file, reason = damaged
        raise ValueError(
            f"{file} is damaged ({reason}); delete the folder {checkpoint.folder} to resume "
            "from the checkpoint before it, or from the start if there is none"
        )
    strategies.check_safe(checkpoint.trainer_file)


def check_sums(checkpoint: Checkpoint) -> None:
    """Raise ValueError if what `from_pretrained` loads of a checkpoint is not what was written."""
    for file, reason in _damaged_sums(checkpoint):
        raise ValueError(f"{file} is damaged ({reason}); take another checkpoint of the run")


def _damaged_archives(checkpoint: Checkpoint) -> Iterator[tuple[Path, str]]:
    files = strategies.checkpoint_files(checkpoint.trainer_file)
    if not files:
        yield checkpoint.trainer_file, "an empty folder"
    for file in files:
        damage = _damage(file)
        if damage is not None:
            yield file, damage


def _damage(file: Path) -> str | None:
    if missing := _missing(file):
        return missing
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip()
    # a broken directory can also ask for encryption, unknown compression or unknown characters
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
        return str(error)


def _missing(file: Path) -> str | None:
    """Say so if there is no plain file; a pipe would wait for a writer."""
    if file.is_file():
        return None
    return "not a file" if os.path.lexists(file) else "it is missing"


def write_sums(folder: Path) -> None:
    """Write `SHA256SUMS` of what `from_pretrained` loads of a checkpoint."""
    found = chain.from_iterable((folder / name).rglob("*") for name in ("adapter", "hf"))
    files = sorted(path for path in found if path.is_file())
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    write_text(folder / SUMS, "".join(lines))


def _damaged_sums(checkpoint: Checkpoint) -> Iterator[tuple[Path, str]]:
    sums = checkpoint.folder / SUMS
    if not os.path.lexists(sums):
        ranks.print_once(f"{checkpoint.folder} has no {SUMS}, so its hf/ is not checked")
        return
    try:
        lines = [_SUM.fullmatch(line) for line in read_text(sums).splitlines()]
    except Damaged as damage:
        yield sums, damage.reason
        return
    if not lines or None in lines:
        yield sums, "a line is not a checksum and a name"
    for line in filter(None, lines):
        file = checkpoint.folder / line[2]
        try:
            if missing := _missing(file):
                yield file, missing
            elif _sha256(file) != line[1]:
                yield file, f"its SHA-256 is not that in {SUMS}"
        except OSError as error:
            yield file, error.strerror or str(error)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def check_same(folder: Path, config: Mapping[str, Any], resumable: Collection[str]) -> None:
    """Raise ValueError unless `folder` is new or holds an evaluation with the same configuration.

    Keys in `resumable` may differ.
    """
    saved = folder / CONFIG
    if os.path.lexists(saved):
        before, now = (
            {key: value for key, value in side.items() if key not in resumable}
            for side in (read_saved(folder), config)
        )
        changed = list(differences(before, now))
        if changed:
            raise ValueError(
                f"output={folder} holds an evaluation with other settings "
                f"({'; '.join(changed[:3])}); give another by --output, or delete it"
            )
    elif folder.exists() and any(
        path.name != LOCK and not path.name.endswith(PARTIAL) for path in folder.iterdir()
    ):
        raise ValueError(f"output={folder} is not empty and holds no evaluation; name another")


def read_saved(folder: Path) -> dict[str, Any]:
    """Return the configuration that an evaluation has saved. Raises ValueError if it is damaged."""
    try:
        return read_yaml(folder / CONFIG)
    except Damaged as damage:
        raise ValueError(
            f"{damage}; it says what the responses in {folder} answer, so put it back, or give "
            "another folder by --output"
        ) from damage


def save_config(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Keep the resolved configuration with the run."""
    write_text(run_dir / CONFIG, yaml.safe_dump(dict(config), sort_keys=False))


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that must stay the same."""
    compared = {key: value for key, value in config.items() if key not in RESUMABLE_KEYS}
    data = compared.get("data")
    if isinstance(data, Mapping):
        compared["data"] = {k: v for k, v in data.items() if k not in RESUMABLE_DATA_KEYS}
    trainer = compared.get("trainer")
    if not isinstance(trainer, Mapping):
        return compared
    if not strategies.fixes_num_ranks(str(trainer.get("strategy"))):
        trainer = {k: v for k, v in trainer.items() if k not in RESUMABLE_TRAINER_KEYS}
    return compared | {"trainer": trainer}


def differences(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """Yield `key: old -> new` for every leaf that differs."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in sorted(before.keys() | now.keys(), key=str):
            inner = f"{key}.{name}" if key else name
            yield from differences(before.get(name), now.get(name), inner)
    elif before != now:
        yield f"{key}: {before!s:.{_SHOWN}} -> {now!s:.{_SHOWN}}"
