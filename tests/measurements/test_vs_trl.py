"""The comparison with TRL, at its tiny scale: both sides agree before they are timed, and what is
written has its keys.

Broken on purpose, each seen red: a side that is not checked; an old log-prob that reaches one side
only; loops that do not wait for each other; a failed loop that others wait for; a point where TRL
leads and that is not named; images that TRL gets once for a group.
"""

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from measurements.against_trl import points, report
from measurements.against_trl.points import GROWTH, Point, named
from measurements.against_trl.timing import added_peak_mib, alternate
from measurements.against_trl.turns import Turns
from tests.support.places import REPOSITORY
from vlm_rl.objectives import GRPO
from vlm_rl.show.figures import save

pytest.importorskip("trl", reason="TRL is not installed: pip install trl")

from measurements.against_trl import worker
from measurements.against_trl.agreement import Differ, check
from measurements.against_trl.trl_side import use_head

KEYS = {"ratio", "ratio_as_it_comes", "trl", "ours", "pairs"}


@pytest.fixture(autouse=True)
def head_as_installed() -> Iterator[None]:
    """Leave TRL as it was for the tests that follow in this process."""
    yield
    use_head("as_it_comes")


@pytest.mark.parametrize("name", ["update_5", "old_5", "update_text_5", "rollout_5"])
def test_point_has_its_keys_and_finite_ratios(name: str) -> None:
    entry = worker.measure(named(name).tiny(), 1)
    assert entry.keys() == KEYS
    assert entry["trl"].keys() == {"seconds", "as_it_comes_seconds"}
    assert entry["ratio"] == entry["trl"]["seconds"] / entry["ours"]["seconds"]
    for value in (entry["ratio"], entry["ratio_as_it_comes"]):
        assert math.isfinite(value)
        assert value > 0


def several_images() -> tuple[Any, Any]:
    point = replace(named("update_7").tiny(), num_images=3, num_prompts=2, answer_tokens=7)
    return worker.build(point)[:2]


def scale_a_matrix(ours: Any, theirs: Any) -> None:
    ours.policy.model.get_input_embeddings().weight.data.mul_(1.01)


def clip_earlier(ours: Any, theirs: Any) -> None:
    ours.objective = GRPO(clip_low=0.1, clip_high=0.1)


def swap_advantages(ours: Any, theirs: Any) -> None:
    theirs.trainer.given["advantages"] = theirs.trainer.given["advantages"].flip(0)


def freeze_the_tower(ours: Any, theirs: Any) -> None:
    ours.policy.part("vision_tower").requires_grad_(False)


def show_another_image(ours: Any, theirs: Any) -> None:
    pixels = theirs.trainer.given["pixel_values"]
    theirs.trainer.given["pixel_values"] = pixels.flip(0)


def give_no_number(ours: Any, theirs: Any) -> None:
    ours.policy.model.lm_head.weight.data[0] = math.nan


@pytest.mark.parametrize(
    ("part", "break_it"),
    [
        ("log-probs", scale_a_matrix),
        ("loss", clip_earlier),
        ("loss", swap_advantages),
        ("gradient", freeze_the_tower),
        ("log-probs", show_another_image),
        ("log-probs", give_no_number),
    ],
)
@pytest.mark.long
def test_sides_that_differ_are_not_timed(part: str, break_it: Callable[[Any, Any], None]) -> None:
    ours, theirs = several_images()
    apart = check(ours, theirs)
    assert apart.keys() == {"log-probs", "loss", "gradient"}
    break_it(ours, theirs)
    with pytest.raises(Differ, match=f"the {part} of the two sides differ by .*, above 0.0001"):
        check(ours, theirs)


def test_point_is_checked_before_it_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("measurements.against_trl.trl_side.CLIP", 0.1)
    for name in ("update_5", "rollout_5", "step_1"):
        with pytest.raises(Differ, match="the loss of the two sides differ"):
            worker.measure(named(name).tiny(), 1)


def test_check_restores_what_our_side_bans() -> None:
    ours, theirs = several_images()
    banned = ours.policy.banned_ids.tolist()
    assert banned
    check(ours, theirs)
    assert ours.policy.banned_ids.tolist() == banned


def test_settings_of_trl_differ_in_checkpointing_and_in_the_positions_of_the_head() -> None:
    _, theirs = several_images()
    best = theirs.update()
    positions: list[int] = []
    head = sys.modules["trl.trainer.utils"]._ChunkedLogProbFunction
    apply = head.apply

    def counted(hidden: torch.Tensor, *rest: Any) -> Any:
        positions.append(len(hidden))
        return apply(hidden, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "apply", counted)
        theirs.use("as_it_comes")
        assert theirs.trainer.model.is_gradient_checkpointing
        assert theirs.update() == pytest.approx(best, abs=1e-6)
        theirs.use("best")
        assert not theirs.trainer.model.is_gradient_checkpointing
        theirs.update()
    trained = int(theirs.batch.completion_mask.sum())
    assert positions[-1] == trained
    assert positions[0] > 3 * trained


def test_loops_run_one_at_a_time_and_lap_by_lap() -> None:
    turns = Turns(["a", "b", "c"], 3)
    seen: list[str] = []

    def loop(name: str) -> None:
        turns.end_lap(name)
        for _ in range(3):
            seen.append(name)
            turns.end_lap(name)

    threads = [
        threading.Thread(target=turns.carry_out, args=(partial(loop, name),)) for name in "abc"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    turns.raise_failure()
    assert seen == list("abcabcabc")
    assert [len(laps) for laps in turns.seconds.values()] == [3, 3, 3]


def test_failed_loop_ends_those_that_wait_for_it() -> None:
    turns = Turns(["a", "b"], 2)

    def fail() -> None:
        raise ValueError("no such image")

    waiting = threading.Thread(target=turns.carry_out, args=(partial(turns.end_lap, "a"),))
    waiting.start()
    turns.carry_out(fail)
    waiting.join()
    with pytest.raises(ValueError, match="no such image"):
        turns.raise_failure()


def test_ways_alternate_and_the_first_round_is_not_counted() -> None:
    calls: list[str] = []

    def way(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    measured = alternate({name: partial(way, name) for name in "ab"}, 2)
    assert calls == ["a", "b", "a", "b", "b", "a"]
    assert measured == {"a": [3.0, 6.0], "b": [4.0, 5.0]}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_added_peak_is_what_is_held_at_once() -> None:
    def hold() -> None:
        torch.ones(64 << 18)  # 64 MiB in float32, freed before the next
        torch.ones(96 << 18)

    torch.ones(256 << 18)  # an earlier peak does not count
    assert 90 < added_peak_mib(hold) < 110


@pytest.mark.parametrize("series", GROWTH)
def test_growth_is_named_by_its_own_number(series: str) -> None:
    grown = {
        "answers": lambda point: point.answer_tokens,
        "prompts": lambda point: point.image_tokens + point.text_tokens,
        "group": lambda point: point.group_size,
        "images": lambda point: point.num_images,
        "vocabulary": lambda point: point.vocabulary,
    }[series]
    sizes = [int(point.name.rpartition("_")[2]) for point in GROWTH[series]]
    assert sizes == sorted(sizes)
    assert [grown(point) for point in GROWTH[series]] == sizes


def test_names_of_the_default_points_are_known() -> None:
    for name in points.DEFAULT.split(","):
        assert named(name).name == name
    with pytest.raises(ValueError, match="no point is called 'updat_100'; there are update_N,"):
        named("updat_100")
    with pytest.raises(ValueError, match="image_tokens must be a square number, got 300"):
        Point("x", "update", 10, image_tokens=300)


def entry(ratio: float, memory: float | None) -> dict[str, Any]:
    return {
        "ratio": ratio,
        "ratio_as_it_comes": 2 * ratio,
        "trl": {"seconds": ratio, "as_it_comes_seconds": 2 * ratio, "peak_mib": memory},
        "ours": {"seconds": 1.0, "peak_mib": 1.0},
        "memory_ratio": memory,
    }


def test_report_names_where_trl_leads_and_draws_what_grows(tmp_path: Path) -> None:
    entries = {
        "answers_50": entry(2.0, 3.0),
        "answers_500": entry(0.9, 0.5),
        "step_1": entry(1, None),
    }
    assert report.where_trl_leads(entries) == [
        "TRL is faster at answers_500: TRL / ours 0.90",
        "TRL takes less memory at answers_500: TRL / ours 0.50",
    ]
    assert report.where_trl_leads({"step_1": entry(1.2, None)}) == [
        "TRL is faster at none of these points"
    ]
    figure = report.growth_figure(entries, ["answers"])
    ours = figure.axes[0].lines[0].get_xydata()
    assert ours.tolist() == [[50, 1.0], [500, 1.0]]
    save(figure, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 10_000


@pytest.mark.long
def test_command_writes_every_point_with_its_memory(tmp_path: Path) -> None:
    target = tmp_path / "points.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "measurements.vs_trl",
            "--scale=tiny",
            "--points=update_4,step_2",
            "--pairs=1",
            f"--json={target}",
        ],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    entries = json.loads(target.read_text())
    assert list(entries) == ["update_4", "step_2"]
    assert entries["step_2"]["memory_ratio"] is None
    assert entries["update_4"]["memory_ratio"] > 0
    assert "update_4" in done.stdout
