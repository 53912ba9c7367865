"""The order of problems: epochs, shares of sources, and steps as a function of the seed.

Mutation that must go red: sort out no `held` problems in `Mixture._draw`.
"""

import pytest

from vlm_rl.data.order import Mixture


@pytest.mark.parametrize(("size", "step"), [(16, 16), (20, 16), (17, 16), (5, 4), (37, 8)])
def test_steps_are_distinct_and_every_epoch_has_each_problem_once(size: int, step: int):
    mixture = Mixture([size], [1.0], prompts_per_step=step, seed=3)
    batches = [mixture.batch(k) for k in range(5 * size)]
    assert all(len(set(batch)) == step for batch in batches)
    drawn = [number for batch in batches for number in batch]
    epochs = [drawn[i : i + size] for i in range(0, len(drawn), size)]
    assert len(epochs) == 5 * step
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    assert size == step or epochs[0] != epochs[1]


def test_mixture_shares_follow_the_weights_in_every_window():
    sizes, weights = [500, 100, 37], [7.0, 2.0, 1.0]
    mixture = Mixture(sizes, weights, prompts_per_step=16, seed=0)
    batches = [mixture.batch(step) for step in range(100)]
    source_of = [0] * 500 + [1] * 100 + [2] * 37
    for first in range(0, 100, 7):
        for last in range(first + 1, 101):
            drawn = [source_of[number] for batch in batches[first:last] for number in batch]
            for source, weight in enumerate(weights):
                expected = weight / 10 * len(drawn)
                assert abs(drawn.count(source) - expected) <= 1 + weight / 10 * 3
    for source in range(3):
        most = max(sum(source_of[number] == source for number in batch) for batch in batches)
        assert most <= mixture.most_draws(source) <= most + 2


def test_batch_is_a_pure_function_of_seed_and_step():
    def mixture(seed: int = 5) -> Mixture:
        return Mixture([30, 20], [1, 3], prompts_per_step=8, seed=seed)

    going_on = mixture()
    steps = [going_on.batch(step) for step in range(60)]
    assert mixture().batch(57) == steps[57]
    assert going_on.batch(3) == steps[3]
    assert mixture(seed=6).batch(57) != steps[57]
