"""Each detector finds its own illness, at whatever size, and nothing in a healthy run."""

import io

import numpy as np
import pytest
import torch

from tests.health.histories import ILL, healthy, of_accuracy, rising, rows, share
from tests.support.places import REPOSITORY
from vlm_rl.health import DETECTORS, Detector, EntropyCollapse, Health, History, TruncationWave
from vlm_rl.health.__main__ import main
from vlm_rl.parts import PartError

SEEDS = range(6)
QUICKSTART = REPOSITORY / "tests/health/quickstart_metrics.csv"
"""Of `python -m vlm_rl.fit --config configs/quickstart.yaml`, without metrics that none reads."""


def _found(history) -> dict[str, int]:
    findings = Health().observe_all(rows(history))
    return {finding.detector: finding.step for finding in findings}


@pytest.mark.parametrize("name", DETECTORS)
def test_each_illness_is_found_by_its_detector_alone(name):
    for seed in SEEDS:
        history = ILL[name](np.random.default_rng([seed, len(name)]))
        assert [*_found(history)] == [name], f"seed {seed}"


def test_healthy_histories_are_silent():
    for seed in range(30):
        assert _found(healthy(np.random.default_rng(seed))) == {}, f"seed {seed}"


def _solved(rng):
    """Nothing is left to learn, so one answer is left."""
    history = healthy(rng)
    steps = len(history["policy/entropy"])
    accuracy = share(rising(rng, 0.4, 0.99, steps, 0.0))
    entropy = 0.03 + 1.3 * (1 - accuracy)
    return of_accuracy(rng, history | {"reward/accuracy": accuracy, "policy/entropy": entropy})


def _longer(rng):
    """Answers that are right more often take eight times the tokens and seconds."""
    history = healthy(rng)
    steps = len(history["reward/accuracy"])
    grown = rising(rng, 1.0, 8.0, steps, 0.0)
    longer = {"completion/length_tokens": 50 * grown, "time/rollout_s": grown}
    accuracy = share(0.2 + 0.5 * (grown - 1) / 7)
    return of_accuracy(rng, history | longer | {"reward/accuracy": accuracy})


def _calmer(rng):
    """Gradients fall by ten powers of ten: the first are many times the median of all."""
    history = healthy(rng)
    steps = len(history["optim/grad_norm"])
    return history | {"optim/grad_norm": 10.0 ** -np.linspace(0, 10, steps)}


@pytest.mark.parametrize("change", [_solved, _longer, _calmer])
def test_change_that_is_no_illness_is_silent(change):
    for seed in SEEDS:
        assert _found(change(np.random.default_rng(seed))) == {}, f"seed {seed}"


def test_history_is_bounded():
    history = History()
    for step in range(1000):
        history.add({"reward/mean": float(step)})
    assert len(history.first("reward/mean", 1000)) == len(history.last("reward/mean", 1000)) == 50


class Broken(Detector):
    """Fails."""

    def find(self, history: History) -> str | None:
        raise KeyError("my/metric")


def test_quickstart_is_silent(tmp_path, capsys):
    (tmp_path / "metrics.csv").write_text(QUICKSTART.read_text())
    main([str(tmp_path)])
    assert capsys.readouterr().out == f"{tmp_path}: nothing found in 83 rows of metrics\n"


def test_command_says_what_it_found_with_what_to_do_and_where_to_read(tmp_path, capsys):
    history = rows(ILL["drift"](np.random.default_rng(0)))
    names = sorted({name for row in history for name in row})
    lines = [",".join(names), *(",".join(str(r.get(n, "")) for n in names) for r in history)]
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    main([str(tmp_path)])
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path}: drift at step ")
    assert said.endswith("(docs/health.md#drift)\n")
    assert "vlm_rl.rollout.TransformersEngine" in said


def test_state_goes_through_a_checkpoint_anywhere():
    history = rows(ILL["length_runaway"](np.random.default_rng(1)))
    whole = Health()
    whole.observe_all(history)
    for cut in (1, 30, len(history) // 2, len(history)):
        before, after, file = Health(), Health(), io.BytesIO()
        before.observe_all(history[:cut])
        torch.save(before.state_dict(), file)
        after.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
        after.observe_all(history[cut:])
        assert after.findings == whole.findings
        assert after.state_dict() == whole.state_dict()


def test_thresholds_are_those_given():
    history = rows(healthy(np.random.default_rng(3)))
    eager = Health(
        detectors={"entropy_collapse": EntropyCollapse(0.99), "mine": TruncationWave(0.01)}
    )
    found = {finding.detector: finding for finding in eager.observe_all(history)}
    assert found.keys() == {"entropy_collapse", "mine"}
    assert found["mine"].link == "", "no page of ours explains it"


def test_switched_off_it_finds_nothing():
    history = rows(ILL["drift"](np.random.default_rng(0)))
    assert Health(enabled=False).observe_all(history) == []
    assert Health(detectors={"drift": None}).observe_all(history) == []


def test_wrong_settings_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"'drifts' is null.*did you mean drift\?"):
        Health(detectors={"drifts": None})
    with pytest.raises(ValueError, match=r"EntropyCollapse\.max_share must be in \(0, 1\), got 2"):
        EntropyCollapse(max_share=2)
    with pytest.raises(ValueError, match=r"TruncationWave\.steps must be in 2 to 50, got 60"):
        TruncationWave(steps=30)


def test_detector_of_ones_own_that_fails_is_named():
    with pytest.raises(PartError, match=r"health\.detectors\.mine .*Broken failed with KeyError"):
        Health(detectors={"mine": Broken()}).observe(1, {"a/b": 1.0})


def test_every_detector_has_its_section_in_the_docs():
    page = (REPOSITORY / "docs/health.md").read_text()
    titles = [line[3:] for line in page.splitlines() if line.startswith("## ")]
    slugs = [title.lower().replace(" ", "-") for title in titles]
    assert {name.replace("_", "-") for name in DETECTORS} <= {*slugs}
