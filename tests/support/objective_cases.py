"""Ragged cases for the tests of objectives, discovery, and evaluation in one part or many.

A case is a list of `Row`s of Python floats. `objective_oracles` has the loops over these; they are
exported here too.
"""

import importlib
import inspect
import pkgutil
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.support.objective_oracles import (
    CONSTANT_TOKENS,
    ORACLES,
    Average,
    Oracle,
    Row,
    kl_term,
    numeric_gradient,
    over_constant,
    over_sequence_sums,
    over_sequences,
    over_tokens,
)
from vlm_rl import objectives
from vlm_rl.model.logprobs import TokenStats
from vlm_rl.objectives import KL, Objective, Sequences
from vlm_rl.records import Batch, Problem, Prompt, Statistic

__all__ = [  # what is defined here, and the oracles
    "CONSTANT_TOKENS",
    "ORACLES",
    "Average",
    "Oracle",
    "Row",
    "kl_term",
    "numeric_gradient",
    "over_constant",
    "over_sequence_sums",
    "over_sequences",
    "over_tokens",
]

SPLIT_DEPENDENT = {"BNPO"}
"""Objectives that are averages over micro-batches by definition."""

OF_GROUPS = {"ConSPO", "REAL"}
"""Objectives whose policy term is a loss of whole groups."""


def text_prompt(uid: str, length: int = 3) -> Prompt:
    """Return a prompt of `length` text tokens."""
    ids = torch.arange(length)
    return Prompt(Problem(uid, "question", "answer"), ids, ids, ids.expand(3, -1), None, None, ())


def fixture(advantages: Sequence[float], reference_offset: float = 0.1) -> list[Row]:
    """Return four completions of one prompt, whose old_logprobs are all -1.

    `mismatch` is how far old_logprobs are above the engine's.
    """
    log_ratios = [[0.10, 0.30], [-0.05, 0.25, -0.40, 0.10], [0.02, -0.30, 0.15], [-0.20]]
    mismatch = [[0.8, 0.0], [0.0, -0.9, 0.0, 0.0], [0.0, 0.0, 0.2], [0.0]]
    return [
        Row(
            logprobs=[value - 1 for value in row],
            old=[-1.0] * len(row),
            ref=[reference_offset - 1] * len(row),
            sampling=[-1 - value for value in apart],
            entropy=[0.5] * len(row),
            ids=list(range(len(row))),
            advantage=advantage,
            prompt=0,
        )
        for row, apart, advantage in zip(log_ratios, mismatch, advantages, strict=True)
    ]


def random_rows(seed: int) -> list[Row]:
    """Return three groups of four, where two rows have no tokens.

    The policy has moved little in some rows and much in others, so that a band of 3e-4 and a band
    of 0.2 both cut off some tokens and keep others.
    """
    rng = random.Random(seed)
    rows = []
    for index in range(12):
        length = 0 if index in (2, 7) else rng.randint(1, 6)
        old = [-rng.expovariate(1) for _ in range(length)]
        moved = 10 ** rng.uniform(-5, 0)
        rows.append(
            Row(
                logprobs=[value + rng.gauss(0, moved) for value in old],
                old=old,
                ref=[value + rng.gauss(0, 0.5) for value in old],
                sampling=[value + rng.gauss(0, 0.5) for value in old],
                entropy=[rng.random() for _ in old],
                ids=[rng.randrange(100) for _ in old],
                advantage=rng.gauss(0, 1),
                prompt=index // 4,
            )
        )
    return rows


def padded(values: Sequence[Sequence[float]], extra: int = 0, fill: float = 0.0) -> Tensor:
    """Return [B, T + extra] float64, with `fill` in the padding."""
    width = max(map(len, values), default=0) + extra
    rows = [[*row, *[fill] * (width - len(row))] for row in values]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(values), width)


def stats_of(rows: Sequence[Row], extra: int = 0, fill: float = 0.0) -> TokenStats:
    logprobs = padded([row.logprobs for row in rows], extra, fill).requires_grad_()
    return TokenStats(logprobs, padded([row.entropy for row in rows], extra, fill))


def batch_of(rows: Sequence[Row], extra: int = 0, fill: float = 0.0) -> Batch:
    owners = sorted({row.prompt for row in rows})
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    old = padded([row.old for row in rows], extra, fill)
    return Batch(
        prompts=tuple(text_prompt(str(owner)) for owner in owners),
        row_prompt=torch.tensor([owners.index(row.prompt) for row in rows], dtype=torch.int64),
        completion_ids=padded([row.ids for row in rows], extra).long(),
        completion_mask=torch.arange(old.shape[1]) < lengths[:, None],
        sampling_logprobs=padded([row.sampling for row in rows], extra, fill),
        old_logprobs=old,
        ref_logprobs=padded([row.ref for row in rows], extra, fill),
        advantages=padded([[row.advantage] * len(row) for row in rows], extra, fill),
    )


class Evaluated(NamedTuple):
    """A loss, d loss / d logprobs without padding, and each statistic's sum and count."""

    loss: float
    grad: list[list[float]]
    statistics: dict[str, tuple[float, int]]


def evaluate(
    objective: Objective, rows: Sequence[Row], *, extra: int = 0, fill: float = 0.0
) -> Evaluated:
    """Evaluate rows in one batch, `extra` columns wider than needed."""
    return evaluate_parts(objective, [rows], extra=extra, fill=fill)


def evaluate_parts(
    objective: Objective, parts: Sequence[Sequence[Row]], *, extra: int = 0, fill: float = 0.0
) -> Evaluated:
    """Evaluate parts, each padded by itself, as on a rank of its own."""
    batches = [batch_of(part, extra, fill) for part in parts]
    stats = [stats_of(part, extra, fill) for part in parts]
    everything = [row for part in parts for row in part]
    loss, statistics = divided(objective, stats, batches, batch_of(everything))
    loss.backward()
    pairs = zip(parts, stats, strict=True)
    grad = [values for part, leaf in pairs for values in grad_of(part, leaf.logprobs)]
    return Evaluated(loss.item(), grad, statistics)


def divided(
    objective: Objective, stats: Sequence[TokenStats], batches: Sequence[Batch], whole: Batch
) -> tuple[Tensor, dict[str, tuple[float, int]]]:
    """Return loss and statistics of an update of `whole` in parts, divided once by all counts."""
    normalizers = add_up([objective.normalizers(batch) for batch in batches])
    plan = objective.prepare(whole, lambda tensor: tensor)
    batches = in_groups(objective, stats, batches, whole)
    losses = [objective(*pair, plan) for pair in zip(stats, batches, strict=True)]
    terms = add_up([{name: t.sum() for name, t in loss.terms.items()} for loss in losses])
    total = torch.stack([terms[name] / normalizers[name] for name in terms]).sum()
    return total, plain(add_up([loss.statistics for loss in losses]))


def in_groups(
    objective: Objective,
    stats: Sequence[TokenStats],
    batches: Sequence[Batch],
    whole: Batch,
    all_sum: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> Sequence[Batch]:
    """Return the parts of `whole` as an update has them: with the terms of a loss of groups."""
    if objective.group_loss is None:
        return batches
    width = whole.completion_mask.shape[1]
    apart = [of_part.logprobs.detach()[:, :width] for of_part in stats]
    logprobs = torch.cat([torch.nn.functional.pad(a, (0, width - a.shape[1])) for a in apart])
    terms = objective.group_terms(whole, logprobs, all_sum).split([len(b) for b in batches])
    pairs = zip(batches, terms, strict=True)
    return [replace(batch, group_terms=own) for batch, own in pairs]


def sequences_of(
    objective: Objective, parts: Sequence[Sequence[Row]], *, extra: int = 0, fill: float = 0.0
) -> Sequences:
    """Return the `Sequences` of all parts; each part is a forward of its own."""
    whole = batch_of([row for part in parts for row in part])
    plan = objective.prepare(whole, lambda tensor: tensor)
    stats = [stats_of(part, extra, fill) for part in parts]
    batches = in_groups(objective, stats, [batch_of(part, extra, fill) for part in parts], whole)
    pairs = zip(stats, batches, strict=True)
    return Sequences.joined([objective(*pair, plan).sequences for pair in pairs])


def grad_of(rows: Sequence[Row], logprobs: Tensor) -> list[list[float]]:
    """Return the gradient of a leaf by row, and check that it is exactly 0 in the padding."""
    assert logprobs.grad is not None
    for row, values in zip(rows, logprobs.grad, strict=True):
        assert not values[len(row) :].any(), "a gradient in the padding"
    return [values[: len(row)].tolist() for row, values in zip(rows, logprobs.grad, strict=True)]


def add_up(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sum by name."""
    total = dict(parts[0])
    for part in parts[1:]:
        assert part.keys() == total.keys()
        total = {name: total[name] + value for name, value in part.items()}
    return total


def plain(statistics: dict[str, Statistic]) -> dict[str, tuple[float, int]]:
    return {name: (s.sum.item(), int(s.count)) for name, s in statistics.items()}


def assert_close(
    actual: list[list[float]], expected: list[list[float]], tolerance: float = 1e-12
) -> None:
    """Compare ragged lists of floats; the tolerance is relative above 1, absolute below."""
    for row, wanted in zip(actual, expected, strict=True):
        assert row == pytest.approx(wanted, rel=tolerance, abs=tolerance)


def assert_same(actual: Evaluated, expected: Evaluated) -> None:
    """Compare two `Evaluated` to 1e-12, and counts exactly."""
    assert actual.loss == pytest.approx(expected.loss, rel=1e-12, abs=1e-12)
    assert_close(actual.grad, expected.grad)
    assert actual.statistics == about(expected.statistics)


def about(statistics: dict[str, tuple[float, int]]) -> dict[str, tuple[Any, int]]:
    """Return what to compare with: sums to 1e-12, counts exactly."""
    return {
        name: (pytest.approx(value, rel=1e-12, abs=1e-12), count)
        for name, (value, count) in statistics.items()
    }


def discover() -> list[type[Objective]]:
    """Return every concrete objective of the package, by name."""
    return discover_parts(Objective)


def discover_parts(base: type[Any]) -> list[type[Any]]:
    """Return every concrete subclass of `base` in `vlm_rl.objectives`, by name."""
    for module in pkgutil.walk_packages(objectives.__path__, objectives.__name__ + "."):
        importlib.import_module(module.name)
    classes, queue = set(), [base]
    while queue:
        subclasses = queue.pop().__subclasses__()
        queue += subclasses
        classes.update(cls for cls in subclasses if cls.__module__.startswith(objectives.__name__))
    return sorted((c for c in classes if not inspect.isabstract(c)), key=lambda cls: cls.__name__)


def build(cls: type[Objective], **options: Any) -> Objective:
    """Build `cls` with the arguments that it requires."""
    assert cls.__name__ in ORACLES, f"{cls.__name__} has no entry in ORACLES"
    return cls(**ORACLES[cls.__name__].arguments, **options)


def weight_gradient(
    objective: Objective, rows: Sequence[Row], all_reduce: Callable[[Tensor], Any]
) -> tuple[Tensor, dict[str, tuple[float, int]]]:
    """Return d loss / d weights [3]; each log-probability depends linearly on the weights."""
    weights = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    batch, stats = batch_of(rows), stats_of(rows)
    assert batch.ref_logprobs is not None
    features = torch.stack(
        [torch.ones_like(batch.old_logprobs), batch.old_logprobs, batch.ref_logprobs.square()], -1
    )
    stats = TokenStats(stats.logprobs.detach() + features @ weights, stats.entropy)

    def summed(tensor: Tensor) -> Tensor:
        total = tensor.clone()
        all_reduce(total)
        return total

    normalizers = objective.normalizers(batch)
    for normalizer in normalizers.values():
        all_reduce(normalizer)
    (batch,) = in_groups(objective, [stats], [batch], batch, summed)
    loss = objective(stats, batch, objective.prepare(batch, summed))
    torch.stack([t.sum() / normalizers[name] for name, t in loss.terms.items()]).sum().backward()
    assert weights.grad is not None
    all_reduce(weights.grad)
    for statistic in loss.statistics.values():
        all_reduce(statistic.sum)
        all_reduce(statistic.count)
    return weights.grad, plain(loss.statistics)


def weight_gradients(
    rows: Sequence[Row], all_reduce: Callable[[Tensor], Any]
) -> dict[str, tuple[Tensor, dict[str, tuple[float, int]]]]:
    """Return `weight_gradient` of every split-independent objective, with a KL term."""
    invariant = [cls for cls in discover() if cls.__name__ not in SPLIT_DEPENDENT]
    built = {cls.__name__: build(cls, regularizers=[KL(0.1)]) for cls in invariant}
    return {name: weight_gradient(built[name], rows, all_reduce) for name in built}


def run_process(rank: int, splits: Sequence[Sequence[Sequence[Row]]], folder: Path) -> None:
    """Run one of several gloo ranks. The first `len(parts)` ranks share the rows of each split and
    save their results in `folder`."""
    torch.set_num_threads(1)
    most = max(map(len, splits))
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=most)
    for parts in splits:
        group = dist.new_group(range(len(parts)))
        if rank < len(parts):
            result = weight_gradients(parts[rank], partial(dist.all_reduce, group=group))
            torch.save(result, folder / f"{rank}_of_{len(parts)}.pt")
    dist.destroy_process_group()
