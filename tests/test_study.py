"""A study of tiny runs: what it writes, that a finished run is not repeated, what it refuses.

Mutations tried, each seen red:
    `finished` always False -> not repeated
    the half width without the square root of the number of seeds -> interval golden
    a failed run not reported -> failing run
    overlays after the changes of the variant -> their order
    `with_suffix` for the log -> a variant with a dot
    `or` for `and` between tokens and accuracy -> front
    bins without a weight drawn -> runs that learned nothing
"""

import json
from pathlib import Path

import pytest
import yaml

from tests.support.places import CONFIGS
from vlm_rl.run.study_pareto import Reached, front
from vlm_rl.run.study_pushes import push_table
from vlm_rl.run.study_report import (
    Interval,
    Outcome,
    _cells,
    _push_points,
    acceptance,
    weight_ratio,
    write_report,
)
from vlm_rl.study import Run, _log, _runs, study

QUICKSTART = CONFIGS / "quickstart.yaml"


@pytest.fixture
def config(policy_folder: Path, data_folder: Path, tmp_path: Path) -> Path:
    """Write a study of two objectives, one seed, two steps."""
    values = {
        "output": str(tmp_path / "study"),
        "base": [str(QUICKSTART)],
        "shared": {
            "steps": 2,
            "group_size": 4,
            "policy": {"path": str(policy_folder)},
            "data": {
                "train": [{"path": str(data_folder / "train.jsonl")}],
                "val": [{"path": str(data_folder / "val.jsonl")}],
                "prompts_per_step": 2,
                "val_problems": 4,
            },
            "sampling": {"max_completion_tokens": 12},
            "reward": {
                "terms": {
                    "accuracy": {"class_path": "vlm_rl.rewards.Accuracy"},
                    "coin": {"class_path": "vlm_rl.rewards.Coin"},
                }
            },
            "validation": {"every_n_steps": 1, "greedy": False},
            "logging": {"wandb": "off"},
        },
        "conditions": {"coin": {}},
        "variants": {
            name: {"objective": {"class_path": f"vlm_rl.objectives.{name}"}}
            for name in ("GSPO", "LUSPO")
        },
        "seeds": [0],
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.long
def test_study_reports_what_fails_and_resumes(config: Path, tmp_path: Path, capfd) -> None:
    folder = tmp_path / "study"
    values = yaml.safe_load(config.read_text())
    values["variants"]["GSPO"]["objective"]["init_args"] = {"clip_low": 7.0}
    broken = tmp_path / "broken.yaml"
    broken.write_text(yaml.safe_dump(values))
    with pytest.raises(SystemExit) as stop:
        study(["--config", str(broken)])
    assert stop.value.code == 1
    error = capfd.readouterr().err
    assert "coin GSPO seed 0 ended with 2" in error
    assert "clip_low must be in (0, 1], got 7.0" in error
    results = json.loads((folder / "results.json").read_text())
    assert [cell["variant"] for cell in results] == ["LUSPO"]

    finished = (folder / "coin" / "LUSPO-0" / "summary.json").stat().st_mtime_ns
    study(["--config", str(config)])
    assert (folder / "coin" / "LUSPO-0" / "summary.json").stat().st_mtime_ns == finished
    results = json.loads((folder / "results.json").read_text())
    assert [(cell["condition"], cell["variant"], cell["seeds"]) for cell in results] == [
        ("coin", "GSPO", [0]),
        ("coin", "LUSPO", [0]),
    ]
    table = (folder / "table.md").read_text().splitlines()
    assert table[0] == "| coin | GSPO | LUSPO |"
    # untrained answers are never right, so there is no number of tokens per right one
    assert "| tokens per correct | - | - |" in table
    for name in ("curves.png", "acceptance.png", "weights.png", "pushes.png", "pareto.png"):
        assert (folder / name).stat().st_size > 10_000
    assert str(folder / "table.md") in capfd.readouterr().out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--only_variants=[LUSPPO]", "only_variants names 'LUSPPO', which is not one; did you"),
        ("--seeds=[1,1]", "seeds must be different numbers"),
        ("--base=[nowhere.yaml]", "nowhere.yaml is not a file, and no recipe has that"),
        ("--overlays={GSPO: [nowhere.yaml]}", "nowhere.yaml is not a file, and no"),
        ("--overlays={GSPPO: []}", "overlays names 'GSPPO', no variant; did you"),
        ('--variants={"../x": {}}', "variants: '../x' cannot name a file"),
        ('--conditions={"a\\nb": {}}', "conditions: 'a\\nb' cannot name a file"),
    ],
)
def test_study_refuses(config: Path, option: str, message: str, capsys) -> None:
    with pytest.raises(SystemExit):
        study(["--config", str(config), option])
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_interval_golden() -> None:
    # mean 3, deviation sqrt(2.5), quantile of t with 4 degrees of freedom 2.776445
    interval = Interval.of([1, 2, 3, 4, 5])
    assert interval.mean == 3
    assert interval.half_width == pytest.approx(2.776445 * (2.5 / 5) ** 0.5, abs=1e-6)
    assert Interval.of([2.0]).text("{:.1f}") == "2.0"


def test_acceptance_and_weights_of_a_report() -> None:
    bins = [
        {"inside": 1.0, "num_sequences": 30, "weight_first": 0.5},
        {"inside": 0.6, "num_sequences": 10, "weight_first": 0.1},
    ]
    outcome = Outcome("a", "b", 0, [], [], {"bins": bins})
    assert acceptance(outcome) == pytest.approx(0.9)
    assert weight_ratio(outcome) == pytest.approx(0.2)


def test_runs_that_learned_nothing_are_reported(tmp_path: Path) -> None:
    empty = ("inside", "accepted", "weight", "weight_first")
    lengths = dict.fromkeys(("lre_inside", "lre_accepted", "lre_inside_floor"))
    lengths["bins"] = [{"mean_length": 12.0, "num_sequences": 8, "num_learning": 0}]
    lengths["bins"][0] |= dict.fromkeys(empty)
    step = {"step": 1, "completion/length_tokens": 12.0}
    validation = {"step": 0, "val/accuracy": 0.0, "val/length_tokens": 12.0}
    outcome = Outcome("a", "b", 0, [validation, validation | {"step": 1}], [step], lengths)
    write_report([outcome], tmp_path)
    assert "| q inside | - |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "weights.png").is_file()


def test_pushes_beside_changes_of_length_by_variant_and_over_conditions() -> None:
    def run(condition: str, variant: str, seed: int) -> Outcome:
        # LUSPO's length follows its push, GSPO's goes against it; a step without one has no column
        push, sign = 0.1 * seed + (condition == "b"), 1 if variant == "LUSPO" else -1
        steps = [{"length/push": push}, {}, {"length/push": push}]
        values = [10.0, 10.0 + sign * push]
        validations = [{"val/length_tokens": value} for value in values]
        return Outcome(condition, variant, seed, validations, steps, {})

    outcomes = [run(c, v, s) for c in "ab" for v in ("GSPO", "LUSPO") for s in range(3)]
    rows = push_table(_push_points(_cells(outcomes))).splitlines()
    assert rows[2].count("too few or equal, n 3") == 2
    assert "r -1.00 [-1.00, -1.00], n 6 | r +1.00 [+1.00, +1.00], n 6" in rows[4]


def test_overlays_come_before_the_changes_of_their_variant(tmp_path: Path) -> None:
    bases = {"a": (["base.yaml"], []), "b": (["base.yaml"], ["one.yaml", "two.yaml"])}
    plain, overlaid = _runs(tmp_path, bases, {}, {"c": {}}, {"a": {}, "b": {}}, [7])

    def configs(run: Run) -> list[str]:
        given = zip(run.command, run.command[1:], strict=False)
        return [Path(value).stem for option, value in given if option == "--config"]

    assert configs(plain) == ["base", "shared", "c", "a"]
    assert configs(overlaid) == ["base", "shared", "c", "one", "two", "b"]


def test_runs_of_a_variant_with_a_dot_have_logs_of_their_own() -> None:
    logs = {_log(Run("c", "Dr.GRPO", s, Path(f"c/Dr.GRPO-{s}"), ())).name for s in range(2)}
    assert logs == {"Dr.GRPO-0.log", "Dr.GRPO-1.log"}


def test_front_leaves_out_what_another_variant_beats() -> None:
    points = {
        "long": Reached(30, 70, 1, 1),
        "short": Reached(10, 50, 1, 1),
        "beaten on both sides": Reached(20, 45, 1, 1),
        "equal length, less accurate": Reached(10, 40, 1, 1),
        "equally accurate, longer": Reached(31, 70, 1, 1),
        "between": Reached(15, 60, 1, 1),
        "twin of between": Reached(15, 60, 1, 1),
    }
    assert front(points) == ["short", "between", "twin of between", "long"]
