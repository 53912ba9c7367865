"""Runs that log to trackers beside metrics.csv. Those that are not installed are skipped:

pip install mlflow trackio swanlab && pytest tests/run/test_trackers.py
"""

import json
import os
import struct
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate

import pytest
import yaml

from tests.support.run_helpers import command, rollouts
from vlm_rl.fit import fit
from vlm_rl.metrics.panels import SECTIONS, names_by_bin
from vlm_rl.run.metrics_csv import read_metrics
from vlm_rl.trackers import PACKAGES, check_trackers, open_trackers, wandb_runs
from vlm_rl.trackers.wandb_view import build_view

SAYS = {
    "health.detectors": json.dumps(
        {
            "always": {
                "class_path": "vlm_rl.health.EngineDrift",
                "init_args": {"max_nats": 1e-12, "steps": 2},
            }
        }
    ),
    "validation.every_n_steps": 2,
    "checkpoint.every_n_steps": 2,
}


def run_twice(policy_folder, data_folder, run, tracker):
    """Train two steps, and go on for two more."""
    for steps in (2, 4):
        keys = SAYS | {"steps": steps, "logging.trackers": f"[{tracker}]"}
        fit(command(policy_folder, data_folder, run, **keys))


def _scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return events.Reload()


def test_trackers_have_the_metrics_samples_and_alerts(policy_folder, data_folder, tmp_path):
    run = tmp_path / "run"
    run_twice(policy_folder, data_folder, run, "tensorboard")
    events = _scalars(run / "tensorboard")
    logged = {
        (tag, event.step): event.value
        for tag in events.Tags()["scalars"]
        for event in events.Scalars(tag)
    }
    written = {
        (name, int(row["step"])): value
        for row in read_metrics(run / "metrics.csv")
        for name, value in row.items()
        if name != "step"
    }
    assert logged.keys() - {("epoch", step) for step in range(9)} == written.keys()
    assert all(logged[key] == pytest.approx(written[key], rel=1e-6, abs=1e-12) for key in written)
    lengths = [sum(row["length_tokens"] for row in step) for step in rollouts(run).values()]
    counted = [logged["rollout/sampled_tokens", step] for step in range(1, 5)]
    assert counted == [*accumulate(lengths)], "also over the restart"
    assert {f"samples/{row}" for row in range(8)} <= {*events.Tags()["images"]}
    texts = {
        tag.removesuffix("/text_summary"): events.Tensors(tag) for tag in events.Tags()["tensors"]
    }
    assert [event.step for event in texts["samples"]] == [0, 2, 4]
    assert b"    steps: 2" in texts["config"][0].tensor_proto.string_val[0]
    assert [event.step for event in texts["health/always"]] == [2], "once, also after the restart"
    assert b"engine and policy differ" in texts["health/always"][0].tensor_proto.string_val[0]


def test_tensorboard_forgets_what_was_after_the_checkpoint(tmp_path):
    for resume, values in ((0, [1.0, 2.0, 3.0]), (1, [5.0])):
        [logger] = open_trackers(["tensorboard"], tmp_path, "p", {"a": {"b": 1}}, resume)
        for offset, value in enumerate(values, 1):
            logger.log_metrics({"a/b": value}, resume + offset)
        logger.finalize("success")
    events = _scalars(tmp_path / "tensorboard").Scalars("a/b")
    assert [(event.step, event.value) for event in events] == [(1, 1.0), (2, 5.0)]


def test_mlflow_has_the_same_in_one_run(policy_folder, data_folder, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    run = tmp_path / "run"
    assert "MLFLOW_TRACKING_URI" not in os.environ
    run_twice(policy_folder, data_folder, run, "mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{run / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name == "vlm_rl"]
    [found] = client.search_runs([experiment.experiment_id])
    rows = read_metrics(run / "metrics.csv")
    for name in ("reward/mean", "val/accuracy"):
        history = [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, name)]
        assert history == [(row["step"], pytest.approx(row[name])) for row in rows if name in row]
    assert "engine and policy differ" in found.data.tags["health.always"]
    assert found.data.params["steps"] == "2", "MLflow keeps those of the first start"
    files = {file.path for file in client.list_artifacts(found.info.run_id, "samples")}
    assert {"samples/step_000004.md", "samples/step_000004_7.png"} <= files


def test_trackio_has_the_same_in_one_run(policy_folder, data_folder, tmp_path, capfd):
    if find_spec("trackio") is None:
        pytest.skip("trackio is not installed")
    run = tmp_path / "run"
    run_twice(policy_folder, data_folder, run, "trackio")
    assert [*(run / "trackio").glob("*.db")]
    trackio = import_module("trackio")  # after the run has chosen its folder
    assert "Trackio project" not in capfd.readouterr().out
    storage = trackio.sqlite_storage.SQLiteStorage
    [found] = storage.get_run_records("vlm_rl")
    logged = storage.get_logs("vlm_rl", found["name"], run_id=found["id"])
    rows = read_metrics(run / "metrics.csv")
    for name in ("reward/mean", "val/accuracy"):
        history = [(row["step"], row[name]) for row in logged if name in row]
        assert history == [(row["step"], pytest.approx(row[name])) for row in rows if name in row]
    [alert] = storage.get_alerts("vlm_rl")
    assert alert["title"] == "always"
    assert "engine and policy differ" in alert["text"]
    tables = [row["samples"]["_value"] for row in logged if "samples" in row]
    assert [table[0]["step"] for table in tables] == [0, 2, 4]
    assert all(row["image"]["file_path"] for table in tables for row in table)


def test_swanlab_has_the_same(policy_folder, data_folder, tmp_path):
    pytest.importorskip("swanlab")
    run = tmp_path / "run"
    run_twice(policy_folder, data_folder, run, "swanlab")
    folders = sorted((run / "swanlab").glob("run-*"))
    assert len(folders) == 2, "offline each start has its own"
    for folder in folders:
        assert len([*folder.glob("media/image/*")]) >= 8
        assert yaml.safe_load((folder / "files/config.yaml").read_text())
    names = b"".join(path.read_bytes() for folder in folders for path in folder.glob("*.swanlab"))
    for name in ("reward/mean", "val/accuracy", "samples/table", "health/always"):
        assert name.encode() in names


def test_view_of_wandb_has_the_sections_in_order_over_the_steps():
    view = build_view("me", "vlm_rl")._to_model()
    bank = view.spec.section.panel_bank_config
    sections = [section for section in bank.sections if section.panels]
    assert [section.name for section in sections] == [*SECTIONS]
    assert not bank.settings.sort_alphabetically
    for section, panels in zip(sections, SECTIONS.values(), strict=True):
        configs = [panel.config for panel in section.panels]
        assert [config.x_axis for config in configs] == ["step"] * len(panels)
        assert [config.metrics for config in configs] == [[*panel.curves] for panel in panels]


def test_no_chart_of_a_single_bin_of_length(tmp_path):
    [run] = wandb_runs(tmp_path, "offline", "p", {})
    with run:
        run.log_metrics({"length/inside_bin10": 0.5, "reward/mean": 0.5}, 1)
    metrics = {m.name or m.glob_name: m for m in logged_metrics(tmp_path)}
    assert metrics["*"].step_metric == metrics["length/inside_bin10"].step_metric == "step"
    hidden = {name for name, metric in metrics.items() if metric.options.hidden}
    assert hidden == {*names_by_bin()}


def logged_metrics(folder):
    """Read what W&B has been told of metrics: its file is blocks of 32 KiB, as LevelDB's logs."""
    from wandb.proto.wandb_internal_pb2 import Record

    [file] = folder.glob("wandb/offline-run-*/*.wandb")
    data, place, block = file.read_bytes(), 7, 1 << 15
    found, record = [], b""
    while place + 7 <= len(data):
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        if block - place % block < 7 or kind == 0:
            place += block - place % block
            continue
        whole, first, middle, last = 1, 2, 3, 4
        record = (b"" if kind in (whole, first) else record) + data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (whole, last):
            parsed = Record.FromString(record)
            if parsed.WhichOneof("record_type") == "metric":
                found.append(parsed.metric)
        assert kind in (whole, first, middle, last)
    return found


def test_unusable_trackers_are_refused_in_one_line():
    with pytest.raises(ValueError, match="names one twice"):
        check_trackers(["tensorboard", "tensorboard"])


@pytest.mark.parametrize("name", PACKAGES)
def test_missing_package_is_named(name):
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(ValueError, match=rf"{name} needs its package: pip install {name}"):
        check_trackers([name])
