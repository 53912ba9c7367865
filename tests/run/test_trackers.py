"""Runs that log to TensorBoard and MLflow beside metrics.csv."""

import json
import os
from importlib.util import find_spec

import pytest

from tests.support.run_helpers import command
from vlm_rl.fit import fit
from vlm_rl.run.metrics_csv import read_metrics
from vlm_rl.run.trackers import PACKAGES, check_trackers, tracker_loggers

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


def _scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return events.Reload()


def test_trackers_have_the_metrics_samples_and_alerts(policy_folder, data_folder, tmp_path):
    run = tmp_path / "run"
    for steps in (2, 4):  # the second goes on
        fit(
            command(
                policy_folder,
                data_folder,
                run,
                **SAYS | {"steps": steps, "logging.trackers": "[tensorboard]"},
            )
        )
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
    assert {f"samples/{row}" for row in range(8)} <= {*events.Tags()["images"]}
    texts = {
        tag.removesuffix("/text_summary"): events.Tensors(tag) for tag in events.Tags()["tensors"]
    }
    assert [event.step for event in texts["samples"]] == [0, 2, 4]
    assert [event.step for event in texts["health/always"]] == [2], "once, also after the restart"
    assert b"engine and policy differ" in texts["health/always"][0].tensor_proto.string_val[0]


def test_tensorboard_forgets_what_was_after_the_checkpoint(tmp_path):
    for resume, values in ((0, [1.0, 2.0, 3.0]), (1, [5.0])):
        [logger] = tracker_loggers(["tensorboard"], tmp_path, "p", resume)
        for offset, value in enumerate(values, 1):
            logger.log_metrics({"a/b": value}, resume + offset)
        logger.finalize("success")
    events = _scalars(tmp_path / "tensorboard").Scalars("a/b")
    assert [(event.step, event.value) for event in events] == [(1, 1.0), (2, 5.0)]


def test_mlflow_has_the_same_in_one_run(policy_folder, data_folder, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    run = tmp_path / "run"
    assert "MLFLOW_TRACKING_URI" not in os.environ
    for steps in (2, 4):
        fit(
            command(
                policy_folder,
                data_folder,
                run,
                **SAYS | {"steps": steps, "logging.trackers": "[mlflow]"},
            )
        )
    client = mlflow.MlflowClient(f"sqlite:///{run / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name == "vlm_rl"]
    [found] = client.search_runs([experiment.experiment_id])
    rows = read_metrics(run / "metrics.csv")
    for name in ("reward/mean", "val/accuracy"):
        history = [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, name)]
        assert history == [(row["step"], pytest.approx(row[name])) for row in rows if name in row]
    assert "engine and policy differ" in found.data.tags["health.always"]
    files = {file.path for file in client.list_artifacts(found.info.run_id, "samples")}
    assert {"samples/step_000004.md", "samples/step_000004_7.png"} <= files


def test_unusable_trackers_are_refused_in_one_line():
    with pytest.raises(ValueError, match="names one twice"):
        check_trackers(["tensorboard", "tensorboard"])


@pytest.mark.parametrize("name", PACKAGES)
def test_missing_package_is_named(name):
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(
        ValueError, match=rf"{name} needs its package: pip install {PACKAGES[name]}"
    ):
        check_trackers([name])
