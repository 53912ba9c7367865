"""Oracles for objectives: loops over Python floats, each written from the formula of its paper.

They use nothing of `vlm_rl`. A new objective needs an entry in `ORACLES`, else
`test_every_objective_has_an_oracle` fails.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

CONSTANT_TOKENS = 8


@dataclass(frozen=True)
class Row:
    """A completion: floats per token, none if it is empty or left out, and the prompt's number.

    `frozen` are the log-probabilities for terms without a gradient. They stay in place when
    `logprobs` are moved to take finite differences.
    """

    logprobs: list[float]
    old: list[float]
    ref: list[float]
    sampling: list[float]
    entropy: list[float]
    ids: list[int]
    advantage: float
    prompt: int
    frozen: list[float] | None = None

    def __len__(self) -> int:
        return len(self.logprobs)

    @property
    def stopped(self) -> list[float]:
        return self.logprobs if self.frozen is None else self.frozen


def clipped(ratio: float, advantage: float, low: float, high: float) -> float:
    return -min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


def token_losses(row: Row, low: float, high: float) -> list[float]:
    """Return the PPO loss of each token of a row."""
    pairs = zip(row.logprobs, row.old, strict=True)
    return [clipped(math.exp(new - old), row.advantage, low, high) for new, old in pairs]


def sequence_loss(row: Row, low: float, high: float) -> float:
    """Return the PPO loss of a sequence with ratio (pi(y)/pi_old(y))^(1/L) (GSPO, eq. 7)."""
    log_ratio = sum(row.logprobs) - sum(row.old)
    return clipped(math.exp(log_ratio / len(row)), row.advantage, low, high)


def bnpo(rows: list[Row]) -> float:
    """Average over one micro-batch that has all rows."""
    losses = [loss for row in rows for loss in token_losses(row, 0.2, 0.2)]
    return sum(losses) / len(losses)


def grpo(rows: list[Row]) -> float:
    total = 0.0
    for row in rows:
        total += sum(token_losses(row, 0.2, 0.2)) / len(row)
    return total / len(rows)


def dr_grpo(rows: list[Row]) -> float:
    total = 0.0
    for row in rows:
        for loss in token_losses(row, 0.2, 0.2):
            total += loss / CONSTANT_TOKENS
    return total / len(rows)


def dapo(rows: list[Row]) -> float:
    total, tokens = 0.0, 0
    for row in rows:
        for loss in token_losses(row, 0.2, 0.28):
            total += loss
            tokens += 1
    return total / tokens


def gspo(rows: list[Row]) -> float:
    return sum(sequence_loss(row, 3e-4, 4e-4) for row in rows) / len(rows)


def gspo_token(rows: list[Row]) -> float:
    total = 0.0
    for row in rows:
        sequence = math.exp((sum(row.stopped) - sum(row.old)) / len(row))
        for new, stopped in zip(row.logprobs, row.stopped, strict=True):
            ratio = sequence * math.exp(new) / math.exp(stopped)
            total += clipped(ratio, row.advantage, 3e-4, 4e-4) / len(row)
    return total / len(rows)


def luspo(rows: list[Row]) -> float:
    return sum(len(row) * sequence_loss(row, 2e-3, 2.5e-3) for row in rows) / len(rows)


FSPO_ARGUMENTS = {"clip_low_log": 0.15, "clip_high_log": 0.2, "dual_clip_log": 0.5}


def fspo(rows: list[Row]) -> float:
    total = 0.0
    for row in rows:
        root, moved = math.sqrt(len(row)), sum(row.logprobs) - sum(row.old)
        free = math.exp(moved) * row.advantage
        held = math.exp(min(max(moved, -0.15 * root), 0.2 * root)) * row.advantage
        loss = -min(free, held)
        if row.advantage < 0:
            loss = min(loss, -row.advantage * math.exp(0.5 * root))
        total += loss
    return total / len(rows)


def rloo(rows: list[Row]) -> float:
    return sum(-row.advantage * sum(row.logprobs) for row in rows) / len(rows)


def rloo_is(rows: list[Row]) -> float:
    total = 0.0
    for row in rows:
        ratio = math.exp(sum(row.logprobs) - sum(row.old))
        loss = clipped(ratio, row.advantage, 0.2, 0.2)
        total += min(loss, -3 * row.advantage) if row.advantage < 0 else loss
    return total / len(rows)


def cispo(rows: list[Row]) -> float:
    losses = []
    for row in rows:
        for new, stopped, old in zip(row.logprobs, row.stopped, row.old, strict=True):
            losses.append(-min(math.exp(stopped) / math.exp(old), 5) * row.advantage * new)
    return sum(losses) / len(losses)


def sapo(rows: list[Row]) -> float:
    total = 0.0
    for row in rows:
        tau = 1.0 if row.advantage > 0 else 1.05
        for new, old in zip(row.logprobs, row.old, strict=True):
            gate = 1 / (1 + math.exp(-tau * (math.exp(new - old) - 1)))
            total -= 4 / tau * gate * row.advantage / len(row)
    return total / len(rows)


def gmpo(rows: list[Row]) -> float:
    total = 0.0
    for row in rows:
        product = 1.0
        for new, old in zip(row.logprobs, row.old, strict=True):
            ratio = math.exp(new - old)
            held = min(ratio, math.exp(0.4)) if row.advantage > 0 else max(ratio, math.exp(-0.4))
            product *= held
        total -= row.advantage * product ** (1 / len(row))
    return total / len(rows)


def ctpo(rows: list[Row]) -> float:
    total = 0.0
    for row in rows:
        for t, (new, stopped) in enumerate(zip(row.logprobs, row.stopped, strict=True), start=1):
            prefix = sum(row.stopped[:t]) - sum(row.old[:t]) + new - stopped
            held = min(max(prefix, -0.025 * math.sqrt(t)), 0.05 * math.sqrt(t))
            loss = -min(math.exp(prefix) * row.advantage, math.exp(held) * row.advantage)
            if row.advantage < 0:
                loss = min(loss, -row.advantage * math.exp(0.05 * math.sqrt(t)))
            total += loss / len(row)
    return total / len(rows)


def vespo(rows: list[Row]) -> float:
    total = 0.0
    for row in rows:
        ratio = math.exp(sum(row.stopped) - sum(row.old))
        power, decay = (2, 3) if row.advantage > 0 else (3, 2)
        weight = math.exp(decay) * ratio**power * math.exp(-decay * ratio)
        total -= weight * row.advantage * sum(row.logprobs)
    return total / sum(map(len, rows))


DPPO_SHIFT = 0.1


def dppo(rows: list[Row]) -> float:
    total = 0.0
    for row in rows:
        for new, stopped, old in zip(row.logprobs, row.stopped, row.old, strict=True):
            shift = math.exp(stopped) - math.exp(old)
            if shift <= DPPO_SHIFT if row.advantage > 0 else shift >= -DPPO_SHIFT:
                total -= min(math.exp(stopped - old), 20) * row.advantage * new
    return total / CONSTANT_TOKENS / len(rows)


DPPO_KL = 0.02


def dppo_kl(rows: list[Row]) -> float:
    total = 0.0
    for row in rows:
        for new, stopped, old in zip(row.logprobs, row.stopped, row.old, strict=True):
            p, q = math.exp(old), math.exp(stopped)
            kl = p * math.log(p / q)
            if p < 1:
                kl += (1 - p) * math.log((1 - p) / max(1 - q, 2**-126))
            toward = q > p if row.advantage > 0 else q < p
            if not (toward and kl > DPPO_KL):
                total -= min(q / p, 20) * row.advantage * new
    return total / CONSTANT_TOKENS / len(rows)


def groups_of(rows: list[Row]) -> list[list[Row]]:
    return [[r for r in rows if r.prompt == p] for p in sorted({row.prompt for row in rows})]


CONSPO_ARGUMENTS = {
    "temperature": 0.3,
    "margin_first": 0.2,
    "margin_last": 0.5,
    "margin_steps": 10,
}


def conspo(rows: list[Row]) -> float:
    total = 0.0
    for group in groups_of(rows):
        right = [row for row in group if row.advantage > 0]
        wrong = [sum(row.logprobs) / len(row) for row in group if row.advantage < 0]
        for row in right:
            own = math.exp((sum(row.logprobs) / len(row) - 0.2) / 0.3)
            others = sum(math.exp(score / 0.3) for score in wrong)
            total -= math.log(own / (own + others)) / len(right)
    return total / len(groups_of(rows))


def real(rows: list[Row]) -> float:
    total = 0.0
    for group in groups_of(rows):
        right = wrong = 1.0
        for row in group:
            score = (sum(row.logprobs) - sum(row.old)) / len(row)
            if row.advantage > 0:
                right += math.exp(-score / 0.5)
            else:
                wrong += math.exp(score / 0.5)
        total += math.log(right) + math.log(wrong)
    return total / len(groups_of(rows))


def over_tokens(values: list[list[float]]) -> float:
    return sum(map(sum, values)) / sum(map(len, values))


def over_sequences(values: list[list[float]]) -> float:
    return sum(sum(row) / len(row) for row in values) / len(values)


def over_sequence_sums(values: list[list[float]]) -> float:
    return sum(map(sum, values)) / len(values)


def over_constant(values: list[list[float]]) -> float:
    return sum(map(sum, values)) / CONSTANT_TOKENS / len(values)


Average = Callable[[list[list[float]]], float]


class Oracle(NamedTuple):
    """What the tests need to know of an objective.

    `arguments` are those that the constructor requires. `policy_term` is the loop over rows with
    tokens, at the published defaults. `average` is the aggregation, which a regularizer shares.
    `band` has the log-ratios at which a completion of one token, of old log-probability -1, leaves
    the band; None if no gradient is cut off.
    """

    arguments: dict[str, Any]
    policy_term: Callable[[list[Row]], float]
    average: Average
    band: tuple[float, float] | None


def band(low: float, high: float) -> tuple[float, float]:
    return math.log(1 - low), math.log(1 + high)


ORACLES = {
    "BNPO": Oracle({}, bnpo, over_tokens, band(0.2, 0.2)),
    "CISPO": Oracle({}, cispo, over_tokens, None),
    "CTPO": Oracle({}, ctpo, over_sequences, (-0.025, 0.05)),
    "ConSPO": Oracle(CONSPO_ARGUMENTS, conspo, over_sequences, None),
    "DAPO": Oracle({}, dapo, over_tokens, band(0.2, 0.28)),
    # e^(l - 1) - e^-1 = -0.1 or 0.1
    "DPPO": Oracle(
        {"constant_tokens": CONSTANT_TOKENS, "max_shift": DPPO_SHIFT},
        dppo,
        over_constant,
        band(DPPO_SHIFT * math.e, DPPO_SHIFT * math.e),
    ),
    "DPPOKL": Oracle(
        {"constant_tokens": CONSTANT_TOKENS, "max_kl": DPPO_KL},
        dppo_kl,
        over_constant,
        (
            -0.2879378337111772,
            0.2383199647744866,
        ),  # where the binary KL from e^-1 is 0.02, by bisection
    ),
    "DrGRPO": Oracle({"constant_tokens": CONSTANT_TOKENS}, dr_grpo, over_constant, band(0.2, 0.2)),
    "FSPO": Oracle(FSPO_ARGUMENTS, fspo, over_sequences, (-0.15, 0.2)),
    "GMPO": Oracle({}, gmpo, over_sequences, (-0.4, 0.4)),
    "GRPO": Oracle({}, grpo, over_sequences, band(0.2, 0.2)),
    "GSPO": Oracle({}, gspo, over_sequences, band(3e-4, 4e-4)),
    "GSPOToken": Oracle({}, gspo_token, over_sequences, band(3e-4, 4e-4)),
    "LUSPO": Oracle({}, luspo, over_sequence_sums, band(2e-3, 2.5e-3)),
    "REAL": Oracle({}, real, over_sequences, None),
    "RLOO": Oracle({}, rloo, over_sequence_sums, None),
    "RLOOIS": Oracle({}, rloo_is, over_sequences, band(0.2, 0.2)),
    "SAPO": Oracle({}, sapo, over_sequences, None),
    "VESPO": Oracle({}, vespo, over_tokens, None),
}


def kl_term(rows: list[Row], estimator: str, average: Average) -> float:
    """Average an estimate of the divergence from the reference over tokens."""
    of_token = {
        "k1": lambda d: d,
        "k2": lambda d: d * d / 2,
        "k3": lambda d: math.exp(-d) - (1 - d),
    }[estimator]
    pairs = [zip(row.logprobs, row.ref, strict=True) for row in rows]
    return average([[of_token(new - ref) for new, ref in pair] for pair in pairs])


def numeric_gradient(
    loss: Callable[[list[Row]], float], rows: list[Row], step: float = 1e-5
) -> list[list[float]]:
    """Return central differences of `loss` in every log-probability, but not where it is frozen."""
    still = [replace(row, frozen=row.logprobs) for row in rows]

    def moved(index: int, token: int, by: float) -> float:
        logprobs = list(still[index].logprobs)
        logprobs[token] += by
        changed = [*still[:index], replace(still[index], logprobs=logprobs), *still[index + 1 :]]
        return loss([row for row in changed if len(row)])

    return [
        [(moved(i, t, step) - moved(i, t, -step)) / (2 * step) for t in range(len(row))]
        for i, row in enumerate(rows)
    ]
