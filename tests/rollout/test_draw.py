"""A token is drawn from the whole softmax without the banned tokens.

Broken on purpose, one at a time, each seen red: `right=False`; banned tokens after the softmax; no
division by the temperature; sums in float32; parts of the rows in another order; no clamp for NaN.
"""

import math

import pytest
import torch

from vlm_rl.rollout import draw as drawing
from vlm_rl.rollout.draw import draw

BANNED = torch.tensor([0, 5])


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_a_row_takes_the_first_token_above_its_number(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(400, 9, generator=generator)
    uniforms = torch.rand(400, generator=generator, dtype=torch.float64)
    tokens, logprobs = draw(logits.clone(), BANNED, temperature, uniforms)
    for row, token, logprob, uniform in zip(logits, tokens, logprobs, uniforms, strict=True):
        weights = [
            0.0 if index in (0, 5) else math.exp(float(logit) / temperature)
            for index, logit in enumerate(row)
        ]
        below = sum(weights[: int(token)]) / sum(weights)
        share = weights[int(token)] / sum(weights)
        assert below - 1e-6 <= float(uniform) < below + share + 1e-6
        assert math.isclose(float(logprob), math.log(share), abs_tol=1e-5)


def test_the_ends_of_the_interval_give_tokens_that_may_be_drawn() -> None:
    logits = torch.zeros(2, 6)
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    tokens, _ = draw(logits, BANNED, 1.0, ends)
    assert tokens.tolist() == [1, 4]


def test_rare_tokens_of_a_large_vocabulary_are_drawn_as_often_as_they_should() -> None:
    """The last half has 2 ** -30 of the mass: sums in float32 would never reach it."""
    logits = torch.zeros(1, 2**18)
    logits[:, 2**17 :] = -30 * math.log(2)
    number = torch.tensor([1 - 2**-31], dtype=torch.float64)
    tokens, logprobs = draw(logits, torch.tensor([], dtype=torch.int64), 1.0, number)
    assert abs(int(tokens) - 3 * 2**16) < 2**17 / 1000
    assert math.isclose(float(logprobs), -47 * math.log(2), abs_tol=1e-5)


def test_parts_of_the_rows_are_drawn_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(7, 9, generator=torch.Generator().manual_seed(0))
    uniforms = torch.linspace(0, 0.99, 7, dtype=torch.float64)
    whole = draw(logits.clone(), BANNED, 1.0, uniforms)
    monkeypatch.setattr(drawing, "CHUNK", 20)
    parts = draw(logits.clone(), BANNED, 1.0, uniforms)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_logprob_of_nan_logits_is_nan(temperature: float) -> None:
    """What checks every engine's answers then says so, with the problem."""
    logits = torch.full((1, 9), math.nan)
    tokens, logprobs = draw(logits, BANNED, temperature, torch.tensor([0.5], dtype=torch.float64))
    assert 0 <= int(tokens) < 9
    assert logprobs.isnan().all()
