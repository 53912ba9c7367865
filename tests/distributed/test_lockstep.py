"""How the rows of a step are cut into updates.

Broken on purpose, one at a time, each seen red: parts of uneven size; an update without a group.
"""

from pathlib import Path

import pytest

from tests.support.text_rows import rows_of, seen
from vlm_rl.distributed.gather import Places
from vlm_rl.distributed.lockstep import Lockstep
from vlm_rl.model.policy import Policy
from vlm_rl.records import Rows


def minibatches(folder: Path, rows: Rows, number: int) -> list[Rows]:
    """Cut the rows of a run on one rank."""
    policy = Policy.from_pretrained(str(folder))
    lockstep = Lockstep(policy, num_minibatches=number, micro_batch_tokens=10**6)
    cut = lockstep.cut(rows, Places.of([len(rows.prompts)]))
    return [minibatch.rows for minibatch in cut.minibatches(rows)]


@pytest.mark.parametrize("num_minibatches", [1, 2, 4, 5])
def test_minibatches_are_cut_between_groups_evenly(policy_folder: Path, num_minibatches: int):
    rows = rows_of([[1, 2], [2, 0], [3, 1], [1, 1], [2, 2]], [3] * 5)
    parts = minibatches(policy_folder, rows, num_minibatches)
    assert len(parts) == num_minibatches
    assert [row for part in parts for row in seen(part)] == seen(rows)
    sizes = [len(part.prompts) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert all(len(part) == 2 * len(part.prompts) for part in parts)


def test_fewer_groups_than_updates_are_an_update_each(policy_folder: Path):
    rows = rows_of([[1], [2]], [3, 3])
    assert [len(part) for part in minibatches(policy_folder, rows, 3)] == [1, 1]
