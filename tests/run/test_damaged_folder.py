"""Nothing in a run's folder is trusted: a damaged file is named in one line, or made anew.

Mutations tried, each seen red: a plain `yaml.safe_load` or `json.loads` in place of `read_yaml` and
`read_json`; kinds not looked at -> a folder, a pipe; `is_dir` not asked of a checkpoint; sums not
written, not compared; kinds of the state not compared; rows not counted; a link not made at resume.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.support.parameters import also_long
from tests.support.run_helpers import command
from vlm_rl.fit import fit
from vlm_rl.run import folder as run_folder
from vlm_rl.run.heartbeat import read_beats
from vlm_rl.run.metrics_csv import METRICS, MetricsCsv, read_metrics


class Trained(NamedTuple):
    policy: Path
    data: Path
    folder: Path

    def again(self, folder: Path, steps: int = 3) -> list[str]:
        keys = {"checkpoint.every_n_steps": 1, "data.val_problems": 2, "steps": steps}
        return command(self.policy, self.data, folder, **keys)


@pytest.fixture(scope="module")
def trained(
    policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """Train a run of two steps."""
    run = Trained(policy_folder, data_folder, tmp_path_factory.mktemp("trained") / "run")
    fit(run.again(run.folder, steps=2))
    return run


@pytest.fixture
def folder(trained: Trained, tmp_path: Path) -> Path:
    """Copy the run, for one test to damage; a file that was named must be left as it is."""
    return Path(shutil.copytree(trained.folder, tmp_path / "run", symlinks=True))


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


CONTENT: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "list": lambda path: path.write_text("[1, 2]"),
    "null": lambda path: path.write_text("null"),
    "number": lambda path: path.write_text("3"),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "half": _half,
    "deep": lambda path: path.write_text("[" * 100_000),
    "wrong types": lambda path: path.write_text('{"steps": [], "trainer": 3, "optimizer": null}'),
}
KIND: dict[str, Callable[[Path], object]] = {
    "folder": _instead(Path.mkdir),
    "pipe": _instead(os.mkfifo),
    "dangling link": _instead(lambda path: path.symlink_to("nowhere")),
}


def _refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        fit(argv)
    assert ended.value.code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "vlm_rl.fit:" in line]
    return line


@pytest.mark.parametrize("kind", CONTENT | KIND)
def test_damaged_config_is_named(
    kind: str, trained: Trained, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "config.yaml"
    (CONTENT | KIND)[kind](file)
    line = _refusal(trained.again(folder), capsys)
    if kind in ("half", "wrong types"):  # it is a mapping, but not this run's
        assert "holds a run with other settings" in line or f"{file} is damaged" in line
    else:
        assert f"{file} {'must be a file' if kind in KIND else 'is damaged'}" in line
    assert "--run_dir NAME" in line
    assert len(line) < 1000
    assert not (folder / "lock").exists()


@pytest.mark.parametrize("name", ["summary.json", METRICS, "length_fairness.json"])
@pytest.mark.parametrize("kind", KIND)
def test_what_is_no_file_is_named(
    kind: str, name: str, trained: Trained, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).touch()
    KIND[kind](folder / name)
    line = _refusal(trained.again(folder), capsys)
    assert f"{folder / name} must be a file; move away what is there" in line


@pytest.mark.parametrize("name", ["checkpoints", "rollouts", "heartbeat", "plots"])
def test_what_is_no_folder_is_named(
    name: str, trained: Trained, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(folder / name)
    (folder / name).symlink_to("nowhere")
    line = _refusal(trained.again(folder), capsys)
    assert f"{folder / name} must be a folder; move away what is there" in line


@pytest.mark.parametrize("kind", CONTENT | KIND)
def test_damaged_summary_is_not_that_of_a_finished_run(
    kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = folder / "summary.json"
    assert run_folder.is_finished(folder, 2)
    (CONTENT | KIND)[kind](summary)
    assert not run_folder.is_finished(folder, 2)
    if kind != "dangling link":
        assert capsys.readouterr().out.startswith(f"{summary} is damaged (")


def test_damaged_summary_is_written_anew(trained: Trained, folder: Path) -> None:
    CONTENT["half"](folder / "summary.json")
    before = read_metrics(folder / METRICS)
    fit(trained.again(folder, steps=2))
    assert run_folder.is_finished(folder, 2)
    assert read_metrics(folder / METRICS) == before


@pytest.mark.parametrize("kind", CONTENT)
def test_damaged_metrics_are_said_and_what_is_whole_is_kept(
    kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / METRICS
    file.write_text("step,a\n1.0,0.5\n2.0,0.25\n2.0,0.75\n3.0,0.125\n")
    CONTENT[kind](file)
    table = MetricsCsv(folder, 2, 3)
    line = capsys.readouterr().out
    assert line.startswith(f"{file} is damaged (")
    assert line.count("\n") == 1
    assert read_metrics(file) == ([{"step": 1.0, "a": 0.5}] if kind == "half" else [])
    table.log_metrics({"a": 1.0}, step=3)
    assert read_metrics(file)[-1] == {"step": 3.0, "a": 1.0}


def test_rows_after_the_checkpoint_are_dropped_also_of_its_own_step(tmp_path: Path) -> None:
    file = tmp_path / METRICS
    file.write_text("step,a\n1.0,0.5\n2.0,0.25\n2.0,0.75\n3.0,0.125\n")
    rows = [{"step": 1.0, "a": 0.5}, {"step": 2.0, "a": 0.25}, {"step": 2.0, "a": 0.75}]
    for number, kept in ((None, 3), (3, 3), (2, 2)):
        MetricsCsv(tmp_path, 2, number)
        assert read_metrics(file) == rows[:kept]


def test_rows_that_are_no_numbers_are_left_out(
    trained: Trained, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, first, *rest = (folder / METRICS).read_text().splitlines(keepends=True)
    spoilt = "x" + first[1:]
    (folder / METRICS).write_text("".join([header, spoilt, *rest[:1], "1.0,2,3\n", *rest[1:]]))
    before = read_metrics(trained.folder / METRICS)
    fit(trained.again(folder))
    assert f"it has {len(before) - 1} of the {len(before)} rows" in capsys.readouterr().out
    assert read_metrics(folder / METRICS)[: len(before) - 1] == before[1:]


BEST: dict[str, Callable[[Path], object]] = {
    "missing": lambda best: None,
    "dangling": lambda best: best.symlink_to("step_9"),
    "another": lambda best: best.symlink_to("step_2"),
    "a file": lambda best: best.write_text("step_1"),
    "a folder": lambda best: shutil.copytree(best.parent / "step_1", best),
}


@pytest.mark.parametrize("kind", BEST)
def test_link_to_the_best_is_made_again(kind: str, trained: Trained, folder: Path) -> None:
    best = folder / "checkpoints" / "best"
    right = os.readlink(best)
    assert right == "step_2" if kind != "another" else right
    best.unlink()
    BEST[kind](best)
    (folder / "summary.json").unlink()  # as if it had been killed before its end
    fit(trained.again(folder, steps=2))
    assert os.readlink(best) == right


@pytest.mark.parametrize("kind", ["flipped", also_long("missing"), also_long("pipe"), "half"])
@pytest.mark.parametrize("name", ["model.safetensors", also_long("tokenizer.json")])
def test_damage_in_hf_is_found(
    kind: str, name: str, trained: Trained, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = folder / "checkpoints" / "step_2"
    file = newest / "hf" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    damage = {
        "flipped": lambda: file.write_bytes(content),
        "missing": file.unlink,
        "pipe": lambda: KIND["pipe"](file),
        "half": lambda: _half(file),
    }
    damage[kind]()
    line = _refusal(trained.again(folder), capsys)
    assert f"{file} is damaged (" in line
    assert f"delete the folder {newest}" in line
    shutil.rmtree(newest)
    assert fit(trained.again(folder)).completed_steps == 3


@pytest.mark.parametrize("kind", ["empty", "binary", "number", "half", "folder", "pipe"])
def test_damaged_sums_are_named(
    kind: str, trained: Trained, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "checkpoints" / "step_2" / run_folder.SUMS
    (CONTENT | KIND)[kind](file)
    assert f"{file} is damaged (" in _refusal(trained.again(folder), capsys)


def test_checkpoint_without_sums_is_said_not_to_be_checked(
    trained: Trained, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "checkpoints" / "step_2" / run_folder.SUMS).unlink()
    fit(trained.again(folder))
    assert "step_2 has no SHA256SUMS, so its hf/ is not checked" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [*CONTENT, *KIND])
def test_damaged_trainer_state_is_named(
    kind: str, trained: Trained, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "checkpoints" / "step_2" / "trainer.ckpt"
    (CONTENT | KIND)[kind](file)
    assert f"{file} is damaged (" in _refusal(trained.again(folder), capsys)


def _edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(file: Path) -> None:
        saved = torch.load(file, weights_only=True)
        changed = change(saved)
        torch.save(saved if changed is None else changed, file)

    return edit


WEIGHT = "policy.model.model.language_model.embed_tokens.weight"
STATES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda saved: [1],
    "a tensor": lambda saved: torch.zeros(1),
    "no module's state": lambda saved: saved.update(vlm_rl=[1]),
    "steps of text": lambda saved: saved["vlm_rl"].update(completed_steps="x"),
    "history of nothing": lambda saved: saved["vlm_rl"].update(validation_history=None),
    "no data": lambda saved: saved.pop("ProblemData") and None,
    "data of text": lambda saved: saved["ProblemData"].update(order="x"),
    "weights of text": lambda saved: saved.update(state_dict="x"),
    "a weight of text": lambda saved: saved["state_dict"].update({WEIGHT: "x"}),
    "rows of text": lambda saved: saved.update(metrics_rows="x"),
}


@pytest.mark.parametrize("kind", STATES)
def test_state_of_wrong_types_is_named(
    kind: str, trained: Trained, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "checkpoints" / "step_2" / "trainer.ckpt"
    _edit(STATES[kind])(file)
    assert str(file) in _refusal(trained.again(folder), capsys)


def test_what_is_no_checkpoint_is_none(trained: Trained, folder: Path) -> None:
    checkpoints = folder / "checkpoints"
    (checkpoints / "step_7").write_text("not a folder")
    (checkpoints / "step_8").symlink_to("nowhere")
    (checkpoints / "step_9.partial").mkdir()
    (checkpoints / "step_x").mkdir()
    newest = run_folder.newest_checkpoint(folder)
    assert newest is not None
    assert newest.step == 2


@pytest.mark.parametrize("kind", CONTENT | KIND)
def test_damaged_beat_is_left_out(kind: str, folder: Path) -> None:
    heartbeat = folder / "heartbeat"
    shutil.copy(heartbeat / "rank_0.json", heartbeat / "rank_1.json")
    (CONTENT | KIND)[kind](heartbeat / "rank_1.json")
    assert [beat.rank for beat in read_beats(heartbeat)] == [0]


UNFINISHED: dict[str, Callable[[Path], object]] = {
    "half a config": lambda folder: (folder / "config.yaml.partial").write_text("run_d"),
    "a lock": lambda folder: (folder / "lock").write_text("{"),
    "a heartbeat": lambda folder: (folder / "heartbeat").mkdir(),
    "a config without a checkpoint": lambda folder: (folder / "config.yaml").write_text("[1]"),
    "rows without a checkpoint": lambda folder: (
        (folder / "config.yaml").write_text("run_dir: ["),
        (folder / METRICS).write_text("step\n1"),
        (folder / "rollouts").mkdir(),
    ),
}


@pytest.mark.parametrize("kind", UNFINISHED)
@pytest.mark.long
def test_killed_start_is_started_again(kind: str, trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    UNFINISHED[kind](folder)
    assert fit(trained.again(folder, steps=1)).completed_steps == 1
    assert not [*folder.rglob("*.partial")]
