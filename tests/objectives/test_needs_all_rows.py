"""An objective that says so may be computed without the rows whose advantages are 0.

Mutations, each seen red:
    `needs_all_rows` False for a regularizer, a `prepare`, a state that observes, a forward's own
    average, a surrogate that says nothing, a `__call__` of its own
    rows that are left out not counted in the normalizers
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.support.objective_cases import (
    OF_GROUPS,
    Row,
    assert_close,
    batch_of,
    build,
    discover,
    discover_parts,
    grad_of,
    random_rows,
    stats_of,
)
from vlm_rl.model.logprobs import TokenStats
from vlm_rl.objectives import (
    FSPO,
    GRPO,
    KL,
    LUSPO,
    ClipCov,
    EntropyBonus,
    Loss,
    Objective,
    Plan,
    Reinforce,
    Surrogate,
    SurrogateLoss,
    TokenMean,
    TokenRatio,
    Tokens,
    TokenTIS,
)
from vlm_rl.records import Batch

NEED_ALL = {"BNPO", *OF_GROUPS}
"""An average over a forward, which changes if a row is left out of it; losses of whole groups."""


def loss_and_gradient(
    objective: Objective, computed: Sequence[Row], left_out: Sequence[Row]
) -> tuple[float, list[list[float]]]:
    """Return the loss and its gradient by row, of an update with one forward."""
    stats, batch = stats_of(computed), batch_of(computed)
    plan = objective.prepare(batch, lambda tensor: tensor)
    counts = [objective.normalizers(rows) for rows in (batch, batch_of(left_out))]
    terms = objective(stats, batch, plan).terms
    parts = [sums.sum() / sum(count[name] for count in counts) for name, sums in terms.items()]
    loss = torch.stack(parts).sum()
    loss.backward()
    return loss.item(), grad_of(computed, stats.logprobs)


@pytest.mark.parametrize("cls", discover(), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("seed", range(4))
def test_rows_without_advantage_only_count_in_the_normalizers(cls: type[Objective], seed: int):
    takes_weights = cls.__name__ not in {"GMPO", *OF_GROUPS}
    objective = build(cls, token_weights=[TokenTIS()] if takes_weights else [])
    assert objective.needs_all_rows == (cls.__name__ in NEED_ALL)
    if objective.needs_all_rows:
        return
    # of the three groups one has no signal; of another a row has not
    zeros = {4, 5, 6, 7, 9}
    rows = random_rows(seed)
    rows = [replace(row, advantage=0.0) if i in zeros else row for i, row in enumerate(rows)]
    kept = [row for row in rows if row.advantage]
    loss, gradient = loss_and_gradient(objective, rows, [])
    assert any(value for row in gradient for value in row)
    assert not any(value for i in zeros for value in gradient[i])
    without, of_kept = loss_and_gradient(objective, kept, [r for r in rows if not r.advantage])
    assert without == pytest.approx(loss, rel=1e-12)
    assert_close(of_kept, [g for g, row in zip(gradient, rows, strict=True) if row.advantage])


class _Unsaid(Surrogate):
    """A loss with a part that does not scale with the advantage."""

    def __call__(self, log_ratio: Tensor, tokens: Tokens) -> SurrogateLoss:
        return SurrogateLoss.unclipped(-tokens.advantages * tokens.logprobs - 0.1 * log_ratio)


class _OwnCall(LUSPO):
    def __call__(self, stats: TokenStats, batch: Batch, plan: Plan) -> Loss:
        return super().__call__(stats, batch, plan)


@pytest.mark.parametrize(
    ("objective", "needs"),
    [
        (LUSPO(), False),
        (Objective(TokenRatio(), Reinforce(), TokenMean()), False),
        (FSPO(0.05, 0.05, 0.5), False),
        (FSPO(0.05, 0.05, 0.5, "centre", 0.1), True),
        (GRPO(regularizers=[KL(0.1)]), True),
        (GRPO(regularizers=[EntropyBonus(0.1)]), True),
        (GRPO(token_weights=[ClipCov()]), True),
        (GRPO(token_weights=[TokenTIS()]), False),
        (Objective(TokenRatio(), _Unsaid(), TokenMean()), True),
        (_OwnCall(), True),
    ],
)
def test_whatever_looks_at_other_rows_needs_them(objective: Objective, needs: bool):
    assert objective.needs_all_rows is needs


@pytest.mark.parametrize("surrogate", discover_parts(Surrogate), ids=lambda cls: cls.__name__)
def test_every_surrogate_of_the_package_scales_with_the_advantage(surrogate: type[Surrogate]):
    assert surrogate.scales_with_advantage
