"""What parts of an objective find out about a whole minibatch is the same on any split of it.

Broken on purpose, one at a time, each seen red:
    all_sum left out of a mean, a count or a step of the bisection -> processes
    the mean over a process's own tokens, its own tasks -> processes
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.support.objective_cases import Row, batch_of, discover_parts, random_rows, stats_of
from vlm_rl.objectives import (
    GRPO,
    LUSPO,
    ClipCov,
    EntropyBand,
    KLCov,
    LoadBalance,
    Objective,
    Plan,
    Regularizer,
    TokenWeight,
)
from vlm_rl.records import Batch

TASKS = {0: "chart", 1: "", 2: "geometry"}
BANDS = {"chart": [0.1, 0.3], "geometry": [2.0, 3.0], "absent": [0.1, 0.2]}
PARTS = [
    ClipCov(0.1, 0.1, 3.0),
    KLCov(1.0, 0.2),
    EntropyBand(0.3, 0.2, 0.6, BANDS),
    EntropyBand(0.3, 0.2, 0.6, BANDS, "sampled"),
]


def with_part(preset: type[GRPO] | type[LUSPO], part: TokenWeight | Regularizer) -> Objective:
    if isinstance(part, TokenWeight):
        return preset(token_weights=[part])
    return preset(regularizers=[part])


def in_tasks(rows: Sequence[Row]) -> Batch:
    batch = batch_of(rows)
    problems = [replace(p.problem, task=TASKS[int(p.uid)]) for p in batch.prompts]
    pairs = zip(batch.prompts, problems, strict=True)
    return replace(batch, prompts=tuple(replace(p, problem=own) for p, own in pairs))


def plans_on_processes(objective: Objective, batches: Sequence[Batch]) -> list[Plan]:
    """Of each process. They run side by side: a later sum may depend on an earlier one."""
    barrier = threading.Barrier(len(batches))
    given: list[Tensor] = [torch.zeros(())] * len(batches)

    def prepare(rank: int) -> Plan:
        def all_sum(value: Tensor) -> Tensor:
            given[rank] = value.double()
            barrier.wait()
            total = torch.stack(given).sum(0)
            barrier.wait()
            return total

        try:
            return objective.prepare(batches[rank], all_sum)
        except BaseException:
            barrier.abort()  # the others would wait for this one
            raise

    with ThreadPoolExecutor(len(batches)) as pool:
        return list(pool.map(prepare, range(len(batches))))


def loss_and_gradient(
    objective: Objective, rows: Sequence[Sequence[Row]], plans: Sequence[Plan]
) -> list[float]:
    """Return the loss, then its slope in each log-probability; every part has its rank's plan."""
    stats, batches = [stats_of(part) for part in rows], [in_tasks(part) for part in rows]
    losses = [objective(*each) for each in zip(stats, batches, plans, strict=True)]
    norms = [objective.normalizers(batch) for batch in batches]
    loss = sum(
        sum(each.terms[name].sum() for each in losses) / sum(norm[name] for norm in norms)
        for name in norms[0]
    )
    assert isinstance(loss, Tensor)
    gradients = torch.autograd.grad(loss, [each.logprobs for each in stats])
    pairs = zip(gradients, batches, strict=True)
    slopes = torch.cat([slope[batch.completion_mask] for slope, batch in pairs])
    return [loss.item(), *slopes.tolist()]


def numbers(plan: Plan) -> dict[str, dict[str, list[float]]]:
    return {
        part: {name: value.double().flatten().tolist() for name, value in scalars.items()}
        for part, scalars in plan.items()
    }


def test_every_part_with_a_plan_is_tested():
    bases = (TokenWeight, Regularizer)
    planning = {c for b in bases for c in discover_parts(b) if c.prepare is not b.prepare}
    of_routers = {LoadBalance}  # reads what a model did: tests/objectives/test_load_balance.py
    assert planning - of_routers == {type(part) for part in PARTS}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
@pytest.mark.parametrize("preset", [GRPO, LUSPO])
@pytest.mark.parametrize("cuts", [[4], [1, 2, 9], [2, 3, 7, 8], list(range(1, 12))], ids=str)
def test_plan_and_loss_are_invariant_to_processes(part, preset, cuts):
    objective, rows = with_part(preset, part), random_rows(5)
    whole = objective.prepare(in_tasks(rows), lambda tensor: tensor)
    parts = [rows[start:end] for start, end in pairwise([0, *cuts, len(rows)])]
    plans = plans_on_processes(objective, [in_tasks(each) for each in parts])
    for plan in plans:
        for name, scalars in numbers(whole).items():
            for key, values in scalars.items():
                assert numbers(plan)[name][key] == pytest.approx(values, rel=1e-12, abs=1e-12)
    in_parts = loss_and_gradient(objective, parts, plans)
    assert in_parts == pytest.approx(loss_and_gradient(objective, [rows], [whole]), abs=1e-12)
