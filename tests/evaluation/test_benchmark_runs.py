"""Benchmarks inside training: their curves and files, and a training that does not notice them.

Broken on purpose, one at a time, each seen red:
    nothing at step 0 -> curve; only at step 0 of what a kill left out -> catches up
    weights touched by a benchmark -> bit-equal; data of other benchmarks -> wrong settings
    samples not written -> compared; shares joined rank by rank -> two ranks
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.test_strategies import launch
from tests.support import evaluation_helpers as helpers
from tests.support.evaluation_helpers import TOO_LONG, WARM_START, lines
from tests.support.run_helpers import command, rollouts, same, trainer_checkpoint
from vlm_rl.evaluate import evaluate
from vlm_rl.fit import fit
from vlm_rl.run.metrics_csv import read_metrics

NUM_ROWS = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mathvision")
    return helpers.write(folder, [*helpers.rows(NUM_ROWS), *helpers.unanswerable()])


def run(folder: Path, problems: Path, data: Path | None, **changes: Any) -> Path:
    fit(_command(folder, problems, data, **changes))
    return folder


def _command(folder: Path, problems: Path, data: Path | None, **changes: Any) -> list[str]:
    """Train for two steps, with the benchmark if `data` is given."""
    more: list[str] = []
    if data is not None:
        more = ["--benchmarks.benchmark=[mathvision]", f"--benchmarks.data.mathvision={data}"]
        more += ["--benchmarks.every_n_steps=1"]
    values = {"steps": 2, "prompt__max_prompt_tokens": 200, "checkpoint.every_n_steps": 1} | changes
    return command(WARM_START, problems, folder, *more, **values)


@pytest.fixture(scope="module")
def watched(data: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("runs") / "watched", data_folder, data)


def samples(run_dir: Path, step: int) -> Path:
    return run_dir / "evaluations" / f"step_{step}" / "mathvision" / "samples.jsonl"


def curve(run_dir: Path, name: str) -> list[tuple[float, float]]:
    rows = read_metrics(run_dir / "metrics.csv")
    return [(row["step"], row[name]) for row in rows if name in row]


def test_curve_is_that_of_the_samples_at_every_step(watched: Path) -> None:
    expected = []
    for step in range(3):
        judged = lines(samples(watched, step))
        assert len(judged) == NUM_ROWS + 2
        refused = {row["uid"] for row in judged if row["refused"] is not None}
        assert TOO_LONG in refused
        right = sum(row["verdict"] == "correct" for row in judged)
        expected.append((step, pytest.approx(right / (NUM_ROWS + 2))))
    assert curve(watched, "eval/mathvision/accuracy") == expected
    assert [step for step, _ in curve(watched, "eval/mathvision/length_tokens")] == [0, 1, 2]
    texts = [[row["response"] for row in lines(samples(watched, step))] for step in range(3)]
    assert texts[0] != texts[2]  # of the policy as it was at that step


def test_first_answers_are_those_of_the_evaluation_command(
    watched: Path, data: Path, tmp_path: Path
) -> None:
    """Greedy, and put as in training."""
    helpers.run(data, tmp_path, sampling__max_completion_tokens=12, batch_problems=64)
    names = ("uid", "response", "verdict", "length_tokens", "truncated", "refused")
    sides = [lines(path) for path in (samples(watched, 0), tmp_path / "mathvision/samples.jsonl")]
    ours, theirs = ([{name: row[name] for name in names} for row in side] for side in sides)
    assert ours == theirs


@pytest.mark.long
def test_answers_and_metrics_of_two_ranks_are_those_of_one(
    watched: Path, data: Path, data_folder: Path, tmp_path: Path
) -> None:
    """Compare before the first step, when the weights are the same."""
    argv = _command(tmp_path / "two", data_folder, data)
    launch({"runs": [{"strategy": "fsdp2", "processes": 2, "argv": argv}]})
    assert lines(samples(tmp_path / "two", 0)) == lines(samples(watched, 0))
    for name in ("accuracy", "length_tokens", "truncated_frac"):
        one, two = (dict(curve(d, f"eval/mathvision/{name}")) for d in (watched, tmp_path / "two"))
        assert list(two) == [0, 1, 2], "each step is written once"
        assert two[0] == one[0]


def test_steps_of_a_run_are_compared(
    watched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(watched / "evaluations" / f"step_{step}") for step in (0, 2)]
    evaluate(["--compare", *folders, f"--output={tmp_path}"])
    (compared,) = json.loads((tmp_path / "comparison.json").read_text())["benchmarks"]
    assert compared["accuracy"]["num_questions"] == NUM_ROWS + 2
    assert compared["sentence"] in capsys.readouterr().out


def test_training_is_bit_equal_without_the_benchmark(
    watched: Path, data_folder: Path, tmp_path: Path
) -> None:
    plain = run(tmp_path / "plain", data_folder, None)
    assert not (plain / "evaluations").exists()
    states = [trainer_checkpoint(folder, 2) for folder in (watched, plain)]
    for name in ("state_dict", "optimizer_states", "lr_schedulers", "ProblemData"):
        assert same(states[0][name], states[1][name]), name
    texts = [
        [[row["token_ids"] for row in rows] for rows in rollouts(folder).values()]
        for folder in (watched, plain)
    ]
    assert texts[0] == texts[1]


def test_run_killed_between_checkpoint_and_benchmark_catches_up(
    watched: Path, data: Path, data_folder: Path, tmp_path: Path
) -> None:
    """What is on disk then: the checkpoint of step 1, and no evaluation of it."""
    killed = tmp_path / "killed"
    shutil.copytree(watched, killed)
    for step in (1, 2):
        shutil.rmtree(killed / "evaluations" / f"step_{step}")
    shutil.rmtree(killed / "checkpoints" / "step_2")
    run(killed, data_folder, data)
    for step in range(3):
        assert lines(samples(killed, step)) == lines(samples(watched, step)), step
    states = [trainer_checkpoint(folder, 2) for folder in (watched, killed)]
    assert same(states[0]["state_dict"], states[1]["state_dict"])
    name = "eval/mathvision/length_tokens"
    assert dict(curve(killed, name)) == dict(curve(watched, name))


WRONG = {
    "unknown": ({"benchmark": "[mathvison]"}, "did you mean mathvision?"),
    "never": ({"every_n_steps": 0}, "benchmarks.every_n_steps must be >= 1, got 0"),
    "equal": ({"samples_per_problem": 2}, "at temperature 0 gives equal answers"),
    "absent": ({"data.mathvision": "no.parquet"}, "no data file no.parquet"),
    "elsewhere": ({"data.mathvista": "x.json"}, "benchmarks.data.mathvista is for a benchmark"),
    "none": ({"limit": 0}, "benchmarks.limit must be >= 1, got 0"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_wrong_settings_are_one_line_before_anything_is_written(
    changes: dict[str, object],
    message: str,
    data: Path,
    data_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {"benchmark": "[mathvision]", "data.mathvision": data} | changes
    keys = {f"benchmarks.{name}": value for name, value in settings.items()}
    with pytest.raises(SystemExit) as ended:
        run(tmp_path / "run", data_folder, None, **keys)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.strip().count("\n") == 0
    assert not (tmp_path / "run").exists()
