"""A folder holds one run: it is resumed, or refused in one line, and never mixed with another.

Mutations tried, each seen red: a damaged checkpoint accepted, `differences` without its key, the
newest checkpoint deleted in place of the oldest.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.run_helpers import command, rollouts
from vlm_rl.fit import build_parser, fit


class Finished(NamedTuple):
    policy: Path
    data: Path
    folder: Path

    def again(self, folder: Path, **changes: object) -> list[str]:
        every = {"checkpoint.every_n_steps": 1, "data.val_problems": 2, "steps": 2}
        return command(self.policy, self.data, folder, **every | changes)


@pytest.fixture(scope="module")
def finished(
    policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    """Train a run of two steps on its own data set."""
    folder = tmp_path_factory.mktemp("finished")
    data = Path(shutil.copytree(data_folder, folder / "data"))
    run = Finished(policy_folder, data, folder / "run")
    fit(run.again(run.folder))
    return run


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that `fit` ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        fit(argv)
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "vlm_rl.fit:" in line]
    assert len(lines) == 1
    return lines[0]


def test_finished_run_names_its_steps_and_the_way_to_extend_it(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _content(finished.folder)
    for steps in (2, 1):
        line = _refusal(finished.again(finished.folder, steps=steps), capsys)
        assert f"run_dir={finished.folder}" in line
        assert "has done its 2 steps" in line
        assert "--steps 4" in line
        assert "--run_dir NAME" in line
    assert _content(finished.folder) == before


def test_other_settings_are_named_with_old_and_new_value(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"group_size": 3, "optimizer.lr": 0.5, "steps": 4}
    line = _refusal(finished.again(finished.folder, **changes), capsys)
    assert "group_size: 4 -> 3" in line
    assert "optimizer.lr: 0.001 -> 0.5" in line


def test_folder_that_is_not_a_run_is_refused(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    line = _refusal(finished.again(tmp_path), capsys)
    assert f"run_dir={tmp_path} is not empty and holds no run" in line
    line = _refusal(finished.again(tmp_path / "notes.txt"), capsys)
    assert "notes.txt is a file" in line
    assert _content(tmp_path) == {str(tmp_path / "notes.txt"): b"mine"}


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "flipped byte": _flip,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "other file": lambda path: path.write_text("not a checkpoint"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_checkpoint_is_named_with_the_way_out(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    newest = folder / "checkpoints" / "step_2"
    damage(newest / "trainer.ckpt")
    line = _refusal(finished.again(folder, steps=3), capsys)
    assert f"{newest / 'trainer.ckpt'} is damaged" in line
    assert f"delete the folder {newest}" in line


def test_run_resumes_from_the_checkpoint_before_a_deleted_one(
    finished: Finished, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    shutil.rmtree(folder / "checkpoints" / "step_2")
    module = fit(finished.again(folder))
    assert module.completed_steps == 2
    assert rollouts(folder) == rollouts(finished.folder)
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"best", "step_1", "step_2"}


@pytest.fixture
def shorter_data(finished: Finished) -> Iterator[None]:
    """Remove the last problem from the file for a while."""
    file = finished.data / "train.jsonl"
    rows = file.read_text().splitlines()
    file.write_text("\n".join(rows[:-1]) + "\n")
    yield
    file.write_text("\n".join(rows) + "\n")


@pytest.mark.usefixtures("shorter_data")
def test_checkpoint_of_another_data_set_is_refused(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    with pytest.raises((SystemExit, ValueError)) as ended:
        fit(finished.again(folder, steps=3))
    line = f"{ended.value} {capsys.readouterr().err}"
    assert "the training data has changed since: 1 row gone: '" in line
    assert "data.accept_changes=all" in line


@pytest.mark.usefixtures("shorter_data")
def test_changed_data_is_accepted_by_its_setting(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    module = fit(finished.again(folder, steps=3, **{"data.accept_changes": "all"}))
    assert module.completed_steps == 3
    said = [line for line in capsys.readouterr().out.splitlines() if "changed since" in line]
    assert len(said) == 1
    assert "1 row gone" in said[0]


def test_saved_config_starts_the_same_run(finished: Finished) -> None:
    saved = finished.folder / "config.yaml"
    parser = build_parser()
    again = parser.parse_args(["--config", str(saved)])
    first = parser.parse_args(finished.again(finished.folder))
    dumped = [json.loads(parser.dump(c, format="json", skip_unset=False)) for c in (again, first)]
    for config in dumped:
        config.pop("config", None)
    assert dumped[0] == dumped[1]
