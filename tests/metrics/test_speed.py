"""Speeds are tokens over seconds; what the shared forward saves is counted in positions.

Broken on purpose, each seen red: seconds of the rollout for those of the step, prompts of empty
rows counted as repeated, the padding of a batch taken for tokens, a rank that counts its own
seconds.
"""

from pathlib import Path

import pytest
import torch

from tests.support.tiny import completion_of, prompts_of
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.metrics.speed import speed_statistics, use_statistics
from vlm_rl.metrics.statistic import means
from vlm_rl.records import Rollout, Rows, Scores, Verdict


@pytest.fixture(scope="module")
def encoder(checkpoints: dict[str, Path]) -> PromptEncoder:
    return PromptEncoder(str(checkpoints["qwen2_5_vl"]))


def test_speeds_and_positions_of_a_step_written_out(encoder: PromptEncoder) -> None:
    prompts = prompts_of(encoder, "mixed")[:2]
    groups = [[completion_of([5] * n) for n in lengths] for lengths in ((3, 0, 7), (2, 4, 9))]
    trained = torch.tensor([[True, True, True], [True, True, False]])
    rows = Rows.build(prompts, groups, trained)
    total = torch.zeros(2, 3, dtype=torch.float64)
    rollout = Rollout(prompts, groups, Scores({}, total, [[Verdict.WRONG] * 3] * 2, {}))
    forwards = list(rows.micro_batches(1))
    seconds = {"rollout": 2.0, "reward": 1.0, "update": 5.0}
    measured = means(speed_statistics([rollout, Rollout.empty(3)], forwards, seconds))
    first, second = map(len, prompts)
    assert len(forwards) == 6
    assert measured["time/sampled_tokens_per_second"] == 25 / 2
    assert measured["time/trained_tokens_per_second"] == 16 / 8
    # each of six forwards has its prompt, of two nothing else
    computed, repeated = 3 * (first + second) + 16, 2 * first + 2 * second + 16
    assert measured["time/positions_frac"] == pytest.approx(computed / repeated)
    together = means(speed_statistics([rollout], [rows], seconds))
    assert together["time/positions_frac"] == pytest.approx((first + second + 16) / repeated)


def test_nothing_sampled_and_nothing_trained_has_no_speed() -> None:
    assert means(speed_statistics([Rollout.empty(3)], [], {})) == {}


def test_padding_is_what_pieces_of_nearly_one_length_lack(encoder: PromptEncoder) -> None:
    (prompt,) = prompts_of(encoder, "no image")
    lengths = (100, 95, 90, 89, 7)
    assert all(len(prompt) < 0.9 * n or len(prompt) > n / 0.9 for n in lengths)
    rows = Rows.build(
        [prompt],
        [[completion_of([5] * n) for n in lengths]],
        torch.ones(1, 5, dtype=torch.bool),
    )
    measured = means(speed_statistics([], [rows], {}))
    # 95 and 90 beside 100; 89 is below nine tenths of it
    computed = len(prompt) + sum(lengths)
    assert measured["time/padding_frac"] == pytest.approx(15 / (computed + 15))


def test_use_of_a_device_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"rollout": 2.0, "update": 3.0, "reward": 5.0}
    measured = means(use_statistics(40 * 10**12, 30 * 10**12, seconds, 100.0))
    assert measured == {
        "time/model_tflop_per_second": pytest.approx(4.0),
        "time/mfu": pytest.approx(0.04),
        "time/update_mfu": pytest.approx(0.1),
    }
    monkeypatch.setattr("vlm_rl.ranks.world_size", lambda: 4)
    of_one = means(use_statistics(40 * 10**12, 30 * 10**12, seconds, None))
    assert of_one == {"time/model_tflop_per_second": pytest.approx(1.0)}
    monkeypatch.setattr("vlm_rl.ranks.rank", lambda: 1)
    (of_other,) = use_statistics(40 * 10**12, 30 * 10**12, seconds, None).values()
    assert (float(of_other.sum), float(of_other.count)) == (40, 0)
