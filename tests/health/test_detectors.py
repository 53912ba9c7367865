"""Each detector finds its own illness, at whatever size, and nothing in a healthy run.

Mutations: see the list at the end of each test that names its own.
"""

import numpy as np
import pytest

from tests.health.histories import ILL, healthy, rows
from vlm_rl.health import DETECTORS, Health

SEEDS = range(12)


def _found(history) -> dict[str, int]:
    findings = Health().observe_all(rows(history))
    return {finding.detector: finding.step for finding in findings}


@pytest.mark.parametrize("name", DETECTORS)
def test_each_illness_is_found_by_its_detector_alone(name):
    for seed in SEEDS:
        history = ILL[name](np.random.default_rng([seed, len(name)]))
        assert [*_found(history)] == [name], f"seed {seed}"


def test_healthy_histories_are_silent():
    for seed in range(60):
        assert _found(healthy(np.random.default_rng(seed))) == {}, f"seed {seed}"
