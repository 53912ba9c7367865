"""The second order of the training problems, out of which dynamic sampling replaces groups.

Broken on purpose: the seed of the steps for `refill_order`, `used` not looked at, a failed image
not named, the same source whatever its weight.
"""

from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.support.problem_data import CUT_JPEG, JPEG, data, write, write_image_rows
from vlm_rl.data.datamodule import DataSource, ProblemData
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.data.tables import BadRow


@pytest.fixture(scope="module")
def encoder(policy_folder: Path) -> PromptEncoder:
    return PromptEncoder(str(policy_folder))


def _refilled(source: ProblemData, count: int, used: Collection[str] = ()) -> list[str]:
    drawn, position = [], 0
    for _ in range(count):
        following = source.refill(position, used)
        assert following is not None
        prompt, position = following
        drawn.append(prompt.uid)
    return drawn


def test_refill_is_an_order_of_its_own_and_a_function_of_seed_and_position(
    tmp_path: Path, encoder: PromptEncoder
) -> None:
    path = write(tmp_path, 12)
    drawn = _refilled(data(encoder, path), 36)
    epochs = [drawn[i : i + 12] for i in (0, 12, 24)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    mixture = data(encoder, path).mixture
    steps = [f"t{index}" for step in range(3) for index in mixture.batch(step)]
    assert drawn[:12] != steps
    assert _refilled(data(encoder, path, prompts_per_step=2), 36) == drawn
    assert _refilled(data(encoder, path, seed=1), 36) != drawn
    going_on = data(encoder, path)
    assert [going_on.refill(place, ())[0].uid for place in (30, 5)] == [drawn[30], drawn[5]]


def test_refill_mixes_the_sources_by_their_weights(tmp_path: Path, encoder: PromptEncoder) -> None:
    paths = [write(tmp_path, 20, name="a"), write(tmp_path, 20, name="b")]
    sources = [DataSource(paths[0], weight=3.0), DataSource(paths[1])]
    module = ProblemData(sources, [], encoder, prompts_per_step=4)
    module.setup()
    assert Counter(uid[0] for uid in _refilled(module, 40)) == {"a": 30, "b": 10}


def test_refill_passes_over_the_problems_of_the_step(
    tmp_path: Path, encoder: PromptEncoder
) -> None:
    module = data(encoder, write(tmp_path, 6))
    order = _refilled(module, 6)
    drawn = module.refill(0, order[:2])
    assert drawn is not None
    assert (drawn[0].uid, drawn[1]) == (order[2], 3)
    assert module.refill(0, order) is None


def test_refill_names_and_replaces_an_image_that_breaks_while_decoding(
    tmp_path: Path, encoder: PromptEncoder
) -> None:
    path = write_image_rows(tmp_path, {"a.jpg": JPEG, "cut.jpg": CUT_JPEG, "b.jpg": JPEG})
    module = data(encoder, path, prompts_per_step=1, on_bad_row="skip")
    assert set(_refilled(module, 6)) == {"a.jpg", "b.jpg"}
    assert [(row.uid, row.reason) for row in module.skipped] == [("cut.jpg", "not encodable")]
    assert module.refill(0, ["a.jpg", "b.jpg"]) is None
    with pytest.raises(BadRow, match=r"images\.jsonl, row 2: .*cut\.jpg"):
        _refilled(data(encoder, path, prompts_per_step=1), 6)
