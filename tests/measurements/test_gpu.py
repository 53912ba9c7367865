"""The measurement of a GPU at its tiny scale on a CPU: its numbers agree with each other.

Broken on purpose, each seen red: seconds of the first, cold update counted; TRL timed although it
computes something else; parts begun after the limit; a group that TRL does not get.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="TRL is not installed: pip install trl")

from measurements import gpu
from measurements.against_trl.agreement import Differ
from measurements.against_trl.trl_side import Theirs, use_head
from measurements.random_qwen import SCALES
from vlm_rl.hardware import GB

TINY = ["--scale=tiny", "--rounds=1", "--prompts=2", "--tokens=5"]


@pytest.fixture(autouse=True)
def head_as_installed() -> Iterator[None]:
    """Leave TRL as it was for the tests that follow in this process."""
    yield
    use_head("as_it_comes")


def test_numbers_of_both_sides_agree_with_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    update = Theirs.update

    def counted(side: Theirs) -> float:
        rows.append(len(side.batch))
        return update(side)

    monkeypatch.setattr(Theirs, "update", counted)
    target = tmp_path / "deep" / "gpu.json"
    result = gpu.main([*TINY, "--peak_tflops=0.01", f"--json={target}"])
    assert json.loads(target.read_text()) == result
    assert result["left_out"] == []
    assert rows == [2, 2] * 2  # both groups, to warm up and once more
    for update_part in (result["ours"]["update, attention as it is"], result["trl"]["update"]):
        seconds = update_part["seconds"]
        assert update_part["answer_tokens_per_s"] == pytest.approx(2 * 2 * 5 / seconds)
        assert update_part["mfu"] == pytest.approx(update_part["tflop"] / seconds / 0.01)
    assert result["ours"]["update, attention as it is"]["tflop"] == result["trl"]["update"]["tflop"]
    assert math.isfinite(result["ours"]["update, attention as it is"]["loss"])
    for side in ("ours", "trl"):
        rollout = result[side]["rollout"]
        assert 2 * 2 <= rollout["tokens"] <= 2 * 2 * 5
        assert rollout["tokens_per_s"] == rollout["tokens"] / rollout["seconds"]
        assert result[side]["memory"]["peak_gb"] is None
    # weights, gradients and two moments at the least
    state = 4 * 4 * SCALES["tiny"].num_parameters / GB
    assert state < result["ours"]["memory"]["estimated_gb"] < 100 * state


def test_trl_is_not_timed_if_it_computes_other_log_probs() -> None:
    work, shared = gpu.Work(gpu.parse(TINY)), dict[str, torch.Tensor]()
    first, _ = next(gpu.ours(work, shared))
    assert first == "old"
    assert next(gpu.theirs(work, shared))[0] == "old"
    shared["logprobs"] = shared["logprobs"] + 0.01
    with pytest.raises(Differ, match=r"the log-probs of the two sides differ by 0.01, above"):
        next(gpu.theirs(work, shared))


def test_what_would_begin_after_the_limit_is_left_out_and_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result: dict[str, Any] = gpu.main([*TINY, "--limit_s=0.001"])
    assert result["left_out"] == ["ours", "trl"]
    assert result["ours"] == result["trl"] == {}
    assert "left out after 0.001 s: trl" in capsys.readouterr().out


def test_median_leaves_out_the_cold_update() -> None:
    work = gpu.Work(gpu.parse(TINY))
    seconds = iter([1000, 1, 1])

    def update() -> None:
        torch.zeros(next(seconds) * 100_000).exp_()

    cold = gpu.timed(lambda: torch.zeros(100_000_000).exp_(), work.device)[0]
    assert work.repeated(update) < cold / 10
