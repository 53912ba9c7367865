"""Histories of metrics by family: healthy ones, and one family per illness, at random sizes."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Values = NDArray[np.float64]
History = dict[str, Values]
VALIDATION_STEPS = 10
STAGES = {"rollout": 1.0, "reward": 0.05, "logprobs": 0.3, "update": 1.0, "weights": 0.02}


def rising(rng: Generator, start: float, end: float, steps: int, noise: float) -> Values:
    """Return a noisy way from `start` to `end`, sooner or later complete."""
    onset, width = rng.uniform(0.2, 0.5) * steps, rng.uniform(0.05, 0.15) * steps
    share = 1 / (1 + np.exp(-(np.arange(steps) - onset) / width))
    share = (share - share[0]) / (share[-1] - share[0])
    return start + (end - start) * share + noise * rng.standard_normal(steps)


def share(values: Values) -> Values:
    return values.clip(0, 1)


def healthy(rng: Generator) -> History:
    """Return a run that learns: length may grow with accuracy, entropy falls some, all is noisy."""
    steps = int(rng.integers(80, 160))
    start, gain = rng.uniform(0.1, 0.5), rng.uniform(0.12, 0.4)
    accuracy = rising(rng, start, start + gain, steps, 0.0)
    length = 10 ** rng.uniform(1, 3) * rng.lognormal(0, 0.1, steps)
    grown = (accuracy - start) / gain * rng.uniform(-0.6, 1.5)  # with accuracy, if at all
    entropy = rng.uniform(0.1, 1.0)
    noisy = rng.lognormal(0, 0.5, steps)  # of the machine, so of all stages
    history = {
        "reward/accuracy": share(accuracy + 0.05 * rng.standard_normal(steps)),
        "reward/format": share(rising(rng, rng.uniform(0.85, 0.99), 0.99, steps, 0.01)),
        "group/without_signal_frac": share(rising(rng, 0.1, rng.uniform(0.1, 0.5), steps, 0.1)),
        "completion/length_tokens": length * (1 + grown),
        "completion/truncated_frac": share(rng.uniform(0, 0.08, steps)),
        "policy/entropy": rising(rng, entropy, entropy * rng.uniform(0.3, 1.1), steps, 0)
        * rng.lognormal(0, 0.2, steps),
        "policy/clip_frac_low": share(rng.uniform(0, 0.15, steps)),
        "policy/clip_frac_high": share(rng.uniform(0, 0.15, steps)),
        "optim/grad_norm": 10 ** rng.uniform(-2, 1) * rng.lognormal(0, 0.35, steps),
        "drift/abs_mean": 10 ** rng.uniform(-7, -2) * rng.lognormal(0, 0.2, steps),
        **{
            f"time/{stage}_s": seconds * noisy * rng.lognormal(0, 0.3, steps)
            for stage, seconds in STAGES.items()
        },
    }
    return of_accuracy(rng, history)


def of_accuracy(rng: Generator, history: History, held_out: Values | None = None) -> History:
    """Complete a history with what follows from training accuracy, or from the `held_out` one."""
    accuracy = history["reward/accuracy"]
    signal = 1 - history["group/without_signal_frac"]
    validated = (accuracy if held_out is None else held_out)[::VALIDATION_STEPS]
    return history | {
        "reward/mean": 0.7 * accuracy + 0.3 * history["reward/format"],
        "reward/group_std": 0.35 * signal,
        "group/all_right_frac": 0.5 * (1 - signal),
        "group/all_wrong_frac": 0.5 * (1 - signal),
        "val/accuracy": share(validated + 0.01 * rng.standard_normal(len(validated))),
    }


def _flat(rng: Generator, history: History, gain: float = 0.0) -> History:
    """Return the history with an accuracy that goes nowhere, or falls."""
    steps = len(history["reward/accuracy"])
    start = rng.uniform(0.35, 0.6)
    accuracy = share(rising(rng, start, start + gain, steps, 0.03))
    length = history["completion/length_tokens"].mean() * rng.lognormal(0, 0.1, steps)
    return of_accuracy(
        rng, history | {"reward/accuracy": accuracy, "completion/length_tokens": length}
    )


def _scaled(history: History, name: str, factors: Values) -> History:
    return history | {name: history[name] * factors}


def _steps(history: History) -> int:
    return len(history["reward/accuracy"])


def entropy_collapse(rng: Generator) -> History:
    history = _flat(rng, healthy(rng))
    way = rising(rng, 0, np.log(rng.uniform(0.001, 0.05)), _steps(history), 0.1)
    flat = np.full(_steps(history), rng.uniform(0.1, 1.0))
    return history | {"policy/entropy": flat * np.exp(way)}


def length_runaway(rng: Generator) -> History:
    history = _flat(rng, healthy(rng), rng.uniform(-0.25, 0.0))
    steps = _steps(history)
    length = rng.uniform(10, 1000) * rising(rng, 1, rng.uniform(2.5, 8), steps, 0.1)
    return history | {"completion/length_tokens": length}


def length_collapse(rng: Generator) -> History:
    history = _flat(rng, healthy(rng), -rng.uniform(0.12, 0.3))
    steps = _steps(history)
    length = rng.uniform(100, 1000) * rising(rng, 1, rng.uniform(0.05, 0.35), steps, 0.01)
    return history | {"completion/length_tokens": length.clip(1)}


def truncation_wave(rng: Generator) -> History:
    history = _flat(rng, healthy(rng), rng.uniform(-0.3, 0.0))
    steps = _steps(history)
    growth = rising(rng, 1, rng.uniform(1, 4), steps, 0.02)
    # what is cut off cannot grow further
    cut = share(rising(rng, rng.uniform(0, 0.1), rng.uniform(0.4, 0.95), steps, 0.03))
    early = np.minimum(growth, np.where(cut < 0.3, 1.8, growth))
    return history | {
        "completion/length_tokens": 200 * early,
        "completion/truncated_frac": cut,
    }


def groups_without_signal(rng: Generator) -> History:
    history = healthy(rng)
    steps = _steps(history)
    lost = share(rising(rng, rng.uniform(0, 0.6), rng.uniform(0.88, 1.0), steps, 0.03))
    norm = history["optim/grad_norm"] * (1.02 - lost)
    return of_accuracy(rng, history | {"group/without_signal_frac": lost, "optim/grad_norm": norm})


def held_out_flat(rng: Generator) -> History:
    history = healthy(rng)
    steps = _steps(history)
    start = rng.uniform(0.2, 0.4)
    flat = np.full(steps, start)
    flat[steps // 2 :] -= rng.uniform(0.03, 0.1)
    learned = share(rising(rng, start, start + rng.uniform(0.35, 0.5), steps, 0.03))
    return of_accuracy(rng, history | {"reward/accuracy": learned}, flat)


def format_without_content(rng: Generator) -> History:
    history = healthy(rng)
    steps = _steps(history)
    form = share(rising(rng, rng.uniform(0, 0.5), 1.0, steps, 0.01))
    return _flat(rng, history | {"reward/format": form}, rng.uniform(-0.1, 0.0))


def drift(rng: Generator) -> History:
    history = healthy(rng)
    steps = _steps(history)
    way = rising(rng, np.log10(rng.uniform(1e-7, 1e-3)), rng.uniform(-1.7, 1), steps, 0.05)
    return history | {"drift/abs_mean": 10**way}


def gradient_spikes(rng: Generator) -> History:
    history = healthy(rng)
    steps = _steps(history)
    factors = np.ones(steps)
    begin = int(rng.integers(15, steps - 45))
    where = rng.choice(np.arange(begin, begin + 40), int(rng.integers(4, 8)), replace=False)
    factors[where] = rng.uniform(20, 300, len(where))
    return _scaled(history, "optim/grad_norm", factors)


def clip_saturation(rng: Generator) -> History:
    history = healthy(rng)
    steps = _steps(history)
    clipped = share(rising(rng, rng.uniform(0, 0.6), rng.uniform(0.6, 0.95), steps, 0.03))
    split = rng.uniform(0, 1)
    return history | {
        "policy/clip_frac_low": split * clipped,
        "policy/clip_frac_high": (1 - split) * clipped,
    }


def slow_stage(rng: Generator) -> History:
    history = healthy(rng)
    steps = _steps(history)
    history |= {"completion/length_tokens": 100 * rng.lognormal(0, 0.1, steps)}
    stage = rng.choice(["reward", "weights", "logprobs"])
    factors = rising(rng, 1, rng.uniform(4, 10) / STAGES[stage], steps, 0).clip(1)
    return _scaled(history, f"time/{stage}_s", factors)


def constant_term(rng: Generator) -> History:
    history = healthy(rng)
    return history | {"reward/brevity": np.full(_steps(history), rng.uniform(-1, 1))}


ILL: dict[str, Callable[[Generator], History]] = {
    made.__name__: made
    for made in (
        entropy_collapse,
        length_runaway,
        length_collapse,
        truncation_wave,
        groups_without_signal,
        held_out_flat,
        format_without_content,
        drift,
        gradient_spikes,
        clip_saturation,
        slow_stage,
        constant_term,
    )
}


def rows(history: History) -> list[dict[str, float]]:
    """Return the rows of metrics.csv: one per step, one per validation, the first before all."""
    made = []
    for step in range(_steps(history)):
        if step % VALIDATION_STEPS == 0:
            value = history["val/accuracy"][step // VALIDATION_STEPS]
            made.append({"step": float(step), "val/accuracy": float(value)})
        row = {name: float(values[step]) for name, values in history.items() if "val/" not in name}
        made.append({"step": float(step + 1)} | row)
    return made
