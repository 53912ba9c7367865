"""What a run leaves to read, from one short run with a broken row and an offline W&B.

Mutations tried, each seen red: `_rewrite` with the columns of the newest row only, a plot without
curves, `skipped_rows` empty, `length_tokens` in characters, no `log_table`, an activity under
another name.
"""

import contextlib
import gzip
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import pytest
from PIL import Image

from tests.support.run_helpers import build_module, command, problems, rollouts, run_module
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.fit import fit
from vlm_rl.model.policy import Policy
from vlm_rl.records import Verdict
from vlm_rl.run.metrics_csv import MetricsCsv, read_metrics
from vlm_rl.run.progress import ProgressBars, training_line, validation_line
from vlm_rl.run.report import plot_training
from vlm_rl.run.samples import SampleTable
from vlm_rl.training.module import RLModule

TERMS = {
    "accuracy": {"class_path": "vlm_rl.rewards.Accuracy", "init_args": {"weight": 0.5}},
    "even": {"class_path": "tests.support.run_helpers.EvenTokens"},
}


class Report(NamedTuple):
    folder: Path
    module: RLModule
    screen: str
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def report(
    policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Report]:
    """Train two steps with W&B offline; nobody is logged in and its server cannot be reached."""
    import wandb

    tmp = tmp_path_factory.mktemp("report")
    data = Path(shutil.copytree(data_folder, tmp / "data"))
    with (data / "train.jsonl").open("a") as file:
        file.write('{"uid": "broken", "problem": "What is it?", "answer": ""}\n')
    environment = dict(os.environ)
    os.environ |= {"WANDB_BASE_URL": "http://127.0.0.1:9", "NETRC": str(tmp / "none")}
    os.environ.pop("WANDB_API_KEY", None)
    changes = {
        "reward.terms": json.dumps(TERMS),
        "data.on_bad_row": "skip",
        "validation.every_n_steps": 2,
        "logging.wandb": "offline",
        "logging.project": "letters",
    }
    folder, screen = tmp / "run", io.StringIO()
    with contextlib.redirect_stdout(screen):
        module = fit(command(policy_folder, data, folder, steps=2, **changes))
    wandb.finish()
    summary = json.loads((folder / "summary.json").read_text())
    yield Report(folder, module, screen.getvalue(), summary)
    os.environ.clear()
    os.environ |= environment


def test_metrics_have_a_row_for_every_step_and_validation(report: Report) -> None:
    rows = read_metrics(report.folder / "metrics.csv")
    assert [row["step"] for row in rows] == [0, 1, 2, 2, 2]
    assert "length/num_bins" in rows[3]
    for row in rows[1:3]:
        wanted = {
            "reward/mean",
            "reward/accuracy",
            "reward/even",
            "reward/group_std",
            "reward/timeout_frac",
            "reward/error_frac",
            "reward/unparsable_frac",
            "completion/length_tokens",
            "completion/truncated_frac",
            "group/mixed_frac",
            "group/without_signal_frac",
            "policy/clip_frac_low",
            "policy/clip_frac_high",
            "policy/loss",
            "policy/entropy",
            "drift/k3",
            "policy/old_kl",
            "optim/grad_norm",
            "optim/lr",
            "optim/skipped_updates",
            "time/rollout_s",
            "time/reward_s",
            "time/logprobs_s",
            "time/update_s",
        }
        assert wanted <= row.keys()
        # an activity outside a step has no time in it
        assert "time/checkpoint_s" not in row
    for row in (rows[0], rows[4]):
        assert {"val/accuracy", "val/length_tokens", "val/truncated_frac"} <= row.keys()
        assert {"val_greedy/accuracy", "val/chart/accuracy"} <= row.keys()


def test_metrics_agree_with_the_rollout_files(report: Report) -> None:
    rows = [row for row in read_metrics(report.folder / "metrics.csv") if "policy/loss" in row]
    for row, (_, samples) in zip(rows, rollouts(report.folder).items(), strict=True):
        means = {
            "reward/mean": [sample["reward"] for sample in samples],
            "reward/even": [sample["terms"]["even"] for sample in samples],
            "completion/length_tokens": [sample["length_tokens"] for sample in samples],
            "completion/truncated_frac": [s["finish_reason"] == "length" for s in samples],
        }
        for name, values in means.items():
            assert row[name] == pytest.approx(sum(values) / len(values)), name


def test_rollout_files_hold_every_completion(report: Report) -> None:
    fields = {
        "uid",
        "source",
        "images",
        "rule",
        "question",
        "answer",
        "completion",
        "verdict",
        "reward",
        "terms",
        "advantage",
        "length_tokens",
        "finish_reason",
        "token_ids",
        "trained",
    }
    files = rollouts(report.folder)
    assert list(files) == ["step_000001.jsonl", "step_000002.jsonl"]
    tokenizer = report.module.encoder.tokenizer
    banned = set(report.module.policy.banned_ids.tolist())
    for samples in files.values():
        assert len(samples) == 8
        for sample in samples:
            assert sample.keys() == fields
            assert sample["length_tokens"] == len(sample["token_ids"])
            assert sample["verdict"] in set(Verdict)
            assert sample["terms"].keys() == {"accuracy", "even"}
            even = sum(token % 2 == 0 for token in sample["token_ids"]) / sample["length_tokens"]
            assert sample["terms"]["even"] == pytest.approx(even)
            total = 0.5 * sample["terms"]["accuracy"] + even
            assert sample["reward"] == pytest.approx(total)
            text = tokenizer.decode(sample["token_ids"], skip_special_tokens=True)
            assert sample["completion"] == text
            assert not banned & set(sample["token_ids"])


@pytest.mark.long
def test_rollout_files_have_bounds(
    policy_folder: Path, data_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    few = {"steps": 5, "validation.every_n_steps": 9, "data.val_problems": 1}
    bounds = {"rollouts.every_n_steps": 2, "rollouts.compress": "true"}
    fit(command(policy_folder, data_folder, tmp_path / "all", **few))
    fit(command(policy_folder, data_folder, tmp_path / "some", **few, **bounds))
    newest = bounds | {"rollouts.keep_last": 1}
    fit(command(policy_folder, data_folder, tmp_path / "one", **few, **newest))
    names = {
        name: sorted(path.name for path in (tmp_path / name / "rollouts").iterdir())
        for name in ("all", "some", "one")
    }
    assert names["all"] == [f"step_00000{step}.jsonl" for step in range(1, 6)]
    assert names["some"] == ["step_000002.jsonl.gz", "step_000004.jsonl.gz"]
    assert names["one"] == ["step_000004.jsonl.gz"]
    packed = (tmp_path / "one/rollouts/step_000004.jsonl.gz").read_bytes()
    assert packed == (tmp_path / "some/rollouts/step_000004.jsonl.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "all/rollouts/step_000004.jsonl").read_bytes()
    with pytest.raises(SystemExit):
        fit(command(policy_folder, data_folder, tmp_path / "no", **{"rollouts.keep_last": 0}))
    assert "rollouts.keep_last must be >= 1, got 0" in capfd.readouterr().err


def test_plot_shows_curves(report: Report, tmp_path: Path) -> None:
    rows = read_metrics(report.folder / "metrics.csv")
    plot_training([{"step": 0.0}], tmp_path / "empty.png")
    with Image.open(report.folder / "plots" / "training.png") as drawn:
        assert drawn.format == "PNG"
        assert min(drawn.size) > 500
        colors = drawn.convert("RGB").getcolors(1 << 24)
    with Image.open(tmp_path / "empty.png") as empty:
        without = {color for _, color in empty.convert("RGB").getcolors(1 << 24)}
    blue = sum(count for count, color in colors if color == (31, 119, 180))
    assert (31, 119, 180) not in without
    assert blue > 500, "curves in the first colour"
    plot_training([*rows, {"step": 3.0, "reward/mean": 9.0}], tmp_path / "more.png")
    with Image.open(tmp_path / "more.png") as more:
        assert more.convert("RGB").getcolors(1 << 24) != colors


def test_summary_tells_how_it_went_and_where_everything_is(report: Report) -> None:
    summary = report.summary
    assert summary["steps"] == 2
    assert (summary["validation_before"]["step"], summary["validation_after"]["step"]) == (0, 2)
    for when in ("validation_before", "validation_after"):
        assert {"val/accuracy", "val/length_tokens", "val/truncated_frac"} <= summary[when].keys()
    activities = {"validation", "weights", "rollout", "reward", "logprobs", "update", "checkpoint"}
    assert summary["stage_seconds"].keys() == activities
    assert summary["stage_seconds"]["rollout"] > 0
    assert 0.1 < summary["peak_memory_gb"] < 8
    assert summary["skipped_updates"] == []
    assert summary["files"].keys() == {
        "checkpoint",
        "best_checkpoint",
        "metrics",
        "rollouts",
        "plots",
        "stages",
        "lengths",
        "wandb",
    }
    assert all(Path(path).exists() for path in summary["files"].values())


def test_skipped_rows_are_in_the_summary(report: Report) -> None:
    assert report.summary["skipped_rows"] == {"no answer": 1}
    assert "skipped rows: 1 x no answer" in report.screen
    [line] = (report.folder / "skipped.jsonl").read_text().splitlines()
    assert "row 25" in json.loads(line)["where"]


def test_last_screen_shows_before_and_after_and_every_path(report: Report) -> None:
    last = report.screen[report.screen.index("2 steps, held-out problems") :]
    for row in ("accuracy, sampled", "accuracy, greedy", "length, sampled", "truncated, sampled"):
        assert row in last
    before, after = report.summary["validation_before"], report.summary["validation_after"]
    for validation in (before, after):
        assert f"{validation['val/length_tokens']:.1f}" in last
    for path in (*report.summary["files"].values(), report.folder / "summary.json"):
        assert str(path) in last
    assert "rollout" in last[last.index("time: ") :]
    assert "peak memory" in last


def test_screen_has_a_line_for_every_step_and_validation(report: Report) -> None:
    lines = report.screen.splitlines()
    steps = [line for line in lines if line.startswith(("step 1/2", "step 2/2"))]
    assert len(steps) == 2
    assert all("reward 0." in line and "length" in line and "grad" in line for line in steps)
    assert len([line for line in lines if "held out: accuracy" in line]) == 2


def test_wandb_run_is_written_offline(report: Report) -> None:
    [run] = (report.folder / "wandb").glob("offline-run-*")
    [file] = run.glob("run-*.wandb")
    assert file.stat().st_size > 1000
    assert b"letters" in file.read_bytes()
    tables = [json.loads(path.read_text()) for path in run.rglob("samples*.table.json")]
    assert len(tables) == 2, "one for each validation"
    steps = set()
    for table in tables:
        assert tuple(table["columns"]) == SampleTable.COLUMNS
        assert len(table["data"]) == 8
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        steps |= {row["step"] for row in rows}
        assert all(row["verdict"] in set(Verdict) and row["length"] <= 12 for row in rows)
        assert all("<image>" in row["question"] for row in rows)
    assert steps == {0, 2}
    # W&B writes nothing outside the run's folder
    for kind in ("DATA", "CACHE", "CONFIG"):
        assert os.environ[f"WANDB_{kind}_DIR"] == str(report.folder / "wandb")
    staged = [path for path in (report.folder / "wandb/artifacts").rglob("*") if path.is_file()]
    images = [path for path in staged if path.read_bytes().startswith(b"\x89PNG")]
    assert len(images) >= 8
    sizes = set()
    for path in images:
        with Image.open(path) as image:
            sizes.add(image.size)
    assert sizes <= {(128, 32), (64, 80)}


class _Descriptions(L.Callback):
    """Records what the bars say when each activity begins."""

    def __init__(self, bars: ProgressBars) -> None:
        self.bars = bars
        self.heard: list[tuple[str, str]] = []

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        module.clock.listen(self._hear)

    def _hear(self, name: str) -> None:
        self.heard.append((name, self.bars._bars.tasks[-1].description))


def test_progress_names_each_activity(policy_folder: Path) -> None:
    encoder = PromptEncoder(str(policy_folder))
    module = build_module(Policy.from_pretrained(str(policy_folder)), encoder)
    bars = ProgressBars()
    descriptions = _Descriptions(bars)
    prompts = [encoder.encode(problem) for problem in problems(1)]
    run_module(module, prompts, bars, descriptions)
    activities = ["weights", "rollout", "reward", "logprobs", "update"]
    assert descriptions.heard == [(name, f"training: {name}") for name in activities]
    assert bars._bars.tasks[0].completed == bars._bars.tasks[0].total == 1
    assert all(seconds > 0 for seconds in module.clock.seconds.values())


def test_progress_names_validation() -> None:
    bars = ProgressBars()
    bars._run = bars._bars.add_task("starting", total=1)
    bars._validation = bars._bars.add_task("validation", total=1)
    bars._show_activity("rollout")
    assert [task.description for task in bars._bars.tasks] == ["starting", "validation: rollout"]


def test_line_of_a_step_leaves_out_what_was_not_measured() -> None:
    metrics = {"reward/mean": 0.5, "time/rollout_s": 1.0, "time/update_s": 0.26}
    assert training_line(3, 9, metrics) == "step 3/9  reward 0.500  1.3 s"


def test_line_of_a_validation_golden() -> None:
    metrics = {"val/accuracy": 0.25, "val/length_tokens": 7.0, "val/truncated_frac": 0.125}
    wanted = "step 4  held out: accuracy 25.0%, length 7.0 tokens, truncated 12.5%"
    assert wanted in validation_line(4, metrics)
    greedy = validation_line(4, metrics | {"val_greedy/accuracy": 0.5})
    assert "accuracy 25.0%, greedy 50.0%, length" in greedy


def test_metrics_csv_takes_new_columns_and_drops_rows_after_the_checkpoint(tmp_path: Path) -> None:
    log = MetricsCsv(tmp_path)
    log.log_metrics({"a": 1.0}, step=1)
    log.log_metrics({"b": 2.5}, step=2)
    log.log_metrics({"a": 3.0, "b": float("nan")}, step=3)
    rows = read_metrics(tmp_path / "metrics.csv")
    assert rows[:2] == [{"step": 1, "a": 1}, {"step": 2, "b": 2.5}]
    assert str(rows[2]["b"]) == "nan"
    MetricsCsv(tmp_path, resume_step=2)
    assert read_metrics(tmp_path / "metrics.csv") == rows[:2]
    MetricsCsv(tmp_path)
    assert read_metrics(tmp_path / "metrics.csv") == []
