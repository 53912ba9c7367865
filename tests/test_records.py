"""Records: what they refuse, and how rows are built, cut and put together again.

Broken on purpose, one at a time, each seen red:
    an assertion of Rows (hole, order, width, dtype), Prompt, Completion left out -> refuse
    a group begun where it must be cut, a prompt counted once per group -> micro-batches golden
    a micro-batch per group, `>=` for the budget -> micro-batches golden
    untrained rows kept in the mask -> build
    all prompts kept by `select` -> select
    ERROR scored, `strip` left out, next_position of one axis only -> verdict, problem, prompt
"""

import random
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from tests.support.objective_cases import text_prompt
from tests.support.text_rows import completion, rows_of, seen
from vlm_rl.records import Batch, Problem, Prompt, Rows, Scores, Statistic, Verdict


def tokens_of(rows: Rows) -> int:
    return sum(map(len, rows.prompts)) + int(rows.lengths.sum())


def test_verdict_is_scored_unless_the_checker_failed():
    assert {str(verdict): verdict.scored for verdict in Verdict} == {
        "correct": True,
        "wrong": True,
        "unparsable": True,
        "timeout": False,
        "error": False,
    }


@pytest.mark.parametrize("field", ["uid", "question", "answer"])
@pytest.mark.parametrize("empty", ["", " \n"])
def test_problem_refuses_empty_text(field, empty):
    texts = {"uid": "a", "question": "How many?", "answer": "3"} | {field: empty}
    message = f"problem {texts['uid']!r}: {field} is empty"
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        Problem(**texts)
    assert "\n" not in str(refusal.value)


def test_prompt_refuses_tensors_that_disagree():
    good = text_prompt("p", 4)
    pixels, grid = torch.zeros(8, 6), torch.tensor([[1, 2, 4]])
    picture = object()
    replace(good, pixel_values=pixels, grid_thw=grid, images=(picture,))
    for wrong in (
        {"token_ids": good.token_ids.int()},
        {"positions": good.positions[:, :3]},
        {"pixel_values": pixels},
        {"pixel_values": pixels, "grid_thw": grid},
        {"pixel_values": pixels, "grid_thw": grid, "images": (picture, picture)},
        {"pixel_values": pixels[:7], "grid_thw": grid, "images": (picture,)},
    ):
        with pytest.raises(AssertionError):
            replace(good, **wrong)


def test_prompt_ends_after_its_largest_position():
    positions = torch.tensor([[0, 1, 1, 2], [0, 1, 5, 2], [0, 1, 2, 3]])
    prompt = replace(text_prompt("p", 4), positions=positions)
    assert isinstance(prompt, Prompt)
    assert (len(prompt), prompt.uid, prompt.next_position) == (4, "p", 6)


def test_completion_refuses_tensors_that_disagree():
    good = completion([1, 2])
    assert (len(good), good.truncated, len(completion([]))) == (2, False, 0)
    assert replace(good, finish_reason="length").truncated
    for wrong in (
        {"token_ids": torch.tensor([1, 2, 3])},
        {"token_ids": good.token_ids.int()},
        {"sampling_logprobs": good.sampling_logprobs.double()},
    ):
        with pytest.raises(ValueError, match=r"token_ids|sampling_logprobs"):
            replace(good, **wrong)


def test_scores_tell_failures_of_the_checker_from_wrong_answers():
    verdicts = [["correct", "wrong", "timeout"], ["error", "unparsable", "correct"]]
    total = torch.zeros(2, 3, dtype=torch.float64)
    rows = [[Verdict(v) for v in row] for row in verdicts]
    scores = Scores({"accuracy": total}, total, rows, {"accuracy": 1.0})
    assert scores.scored.tolist() == [[True, True, False], [False, True, True]]
    assert scores.correct.tolist() == [[True, False, False], [False, False, True]]
    for wrong in (
        {"total": total.float()},
        {"terms": {"accuracy": total[:, :2]}},
        {"verdicts": scores.verdicts[:1]},
    ):
        with pytest.raises(AssertionError):
            replace(scores, **wrong)


def test_statistics_add_as_sums_and_counts():
    parts = [Statistic(torch.tensor(s), torch.tensor(c)) for s, c in ((1.0, 1), (2.0, 9))]
    whole = parts[0] + parts[1]
    assert (whole.sum.item(), whole.count.item()) == (3.0, 10)


def test_build_pads_and_masks():
    rows = rows_of([[2, 0], [3, 1]], [4, 5], trained=[[True, True], [False, True]])
    assert len(rows) == 4
    assert rows.row_prompt.tolist() == [0, 0, 1, 1]
    assert rows.lengths.tolist() == [2, 0, 0, 1]
    assert rows.completion_ids.shape == (4, 3)
    assert rows.completion_ids[2].tolist() == [200, 201, 202]  # left out of training, not lost
    assert rows.completion_mask.tolist() == [
        [True, True, False],
        [False] * 3,
        [False] * 3,
        [True, False, False],
    ]
    assert rows.sampling_logprobs[3, 0].item() == pytest.approx(-30.0)


def test_build_of_empty_completions():
    rows = rows_of([[0, 0]], [3])
    assert rows.completion_mask.shape == (2, 0)
    assert [len(part) for part in rows.micro_batches(1)] == [1, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"completion_mask": torch.tensor([[True, False, True], [True, True, False]])},
        {"completion_mask": torch.tensor([[False, True, True], [True, True, False]])},
        {"completion_mask": torch.ones(2, 3)},
        {"row_prompt": torch.tensor([1, 0])},
        {"row_prompt": torch.tensor([0, 0, 1])},
        {"completion_ids": torch.zeros(2, 4, dtype=torch.int64)},
        {"sampling_logprobs": torch.zeros(2, 1)},
    ],
    ids=["hole", "late_start", "float_mask", "order", "row_count", "width", "one_column"],
)
def test_rows_refuse_tensors_that_disagree(wrong):
    rows = rows_of([[3], [2]], [3, 3])
    with pytest.raises(AssertionError):
        replace(rows, **wrong)


def test_select_keeps_only_the_prompts_in_use():
    rows = rows_of([[2, 1], [1, 1], [3, 2]], [3, 4, 5])
    part = rows.select(torch.tensor([1, 4]))
    assert seen(part) == [seen(rows)[1], seen(rows)[4]]
    assert [prompt.uid for prompt in part.prompts] == ["p0", "p2"]
    assert part.row_prompt.tolist() == [0, 1]


def cut(rows: Rows, max_tokens: int) -> list[list[tuple[str, int]]]:
    """Each micro-batch as (uid, trained tokens) by row."""
    parts = rows.micro_batches(max_tokens)
    return [[(uid, len(ids)) for uid, ids in seen(part)] for part in parts]


def test_micro_batches_golden():
    # groups with their prompts: 10 + 3 = 13, 10 + 5 = 15, 4 + 30 = 34, 2 + 2 = 4 tokens
    rows = rows_of([[1, 2], [2, 3], [10, 10, 10], [1, 1]], [10, 10, 4, 2])
    a, b = [("p0", 1), ("p0", 2)], [("p1", 2), ("p1", 3)]
    c, d = ("p2", 10), [("p3", 1), ("p3", 1)]
    assert cut(rows, 66) == [[*a, *b, c, c, c, *d]]
    assert cut(rows, 65) == [[*a, *b, c, c, c], d]
    assert cut(rows, 28) == [[*a, *b], [c, c], [c, *d]]  # 24, then 14 + 4
    assert cut(rows, 27) == [a, b, [c, c], [c, *d]]
    assert cut(rows, 17) == [a, b, [c], [c], [c], d]
    assert cut(rows, 1) == [[row] for row in (*a, *b, c, c, c, *d)]


def test_micro_batches_keep_rows_groups_and_budget():
    rng = random.Random(0)
    for _ in range(200):
        num_groups, group_size = rng.randint(1, 5), rng.randint(1, 4)
        lengths = [[rng.randint(0, 9) for _ in range(group_size)] for _ in range(num_groups)]
        flags = [[rng.random() < 0.8 for _ in range(group_size)] for _ in range(num_groups)]
        rows = rows_of(lengths, [rng.randint(1, 12) for _ in range(num_groups)], flags)
        budget = rng.randint(1, 60)
        parts = list(rows.micro_batches(budget))
        assert [row for part in parts for row in seen(part)] == seen(rows)
        assert all(tokens_of(part) <= budget or len(part) == 1 for part in parts)
        whole = {
            prompt.uid: tokens_of(rows.select((rows.row_prompt == owner).nonzero()[:, 0]))
            for owner, prompt in enumerate(rows.prompts)
        }
        forwards = [prompt.uid for part in parts for prompt in part.prompts]
        assert all(forwards.count(uid) == 1 for uid in whole if whole[uid] <= budget)
        for part, following in pairwise(parts):
            opening = whole[following.prompts[0].uid]
            assert opening > budget or tokens_of(part) + opening > budget, "could share a forward"


def test_micro_batches_of_nothing():
    rows = rows_of([[1]], [3])
    nothing = rows.select(torch.tensor([], dtype=torch.int64))
    assert list(nothing.micro_batches(10)) == []


def test_batch_cuts_every_tensor_alike():
    rows = rows_of([[2, 1], [3, 2]], [3, 4])
    values = torch.arange(12.0).reshape(4, 3)
    advantages = torch.tensor([[1.0, -1.0], [0.5, -0.5]], dtype=torch.float64)
    batch = Batch.of(rows, old_logprobs=values, ref_logprobs=values + 100, advantages=advantages)
    assert batch.advantages.tolist() == [[value] * 3 for value in (1.0, -1.0, 0.5, -0.5)]
    first, second = (batch.select(torch.tensor(own)) for own in ([0, 1], [2, 3]))
    assert isinstance(second, Batch)
    assert second.old_logprobs.tolist() == values[2:].tolist()
    assert second.ref_logprobs.tolist() == (values[2:] + 100).tolist()
    assert second.advantages[:, 0].tolist() == [0.5, -0.5]
    assert seen(first) + seen(second) == seen(rows)
    per_token = values.double()
    kept = Batch.of(rows, old_logprobs=values, ref_logprobs=None, advantages=per_token)
    assert kept.advantages is per_token
    assert all(part.ref_logprobs is None for part in kept.micro_batches(1))


def test_batch_refuses_tensors_that_disagree():
    rows = rows_of([[2, 1]], [3])
    good = torch.zeros(2, 2)
    tensors = {"old_logprobs": good, "ref_logprobs": good, "advantages": good}
    Batch.of(rows, **tensors)
    for name in tensors:
        with pytest.raises((AssertionError, RuntimeError)):
            Batch.of(rows, **tensors | {name: torch.zeros(2, 3)})
