"""A layer with a recurrent state reads a packed row as it would read each completion alone.

The oracle is the layer's own forward of transformers, on a prompt and one completion behind it.

Broken on purpose, one at a time, each seen red: the state not handed on; that of another prompt; a
prompt padded behind its end.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.tiny import FAMILIES, prompts_of, random_rows, sharp_policy
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.attention import Group, Segments
from vlm_rl.model.attention.recurrence import LEAST, Lanes, lanes_of
from vlm_rl.model.attention.segments import MOST_PADDING
from vlm_rl.model.families import FAMILIES as ENTRIES
from vlm_rl.model.families import recurrences
from vlm_rl.model.policy import Policy
from vlm_rl.records import Rows

CPU = torch.device("cpu")
HYBRIDS = [family for family in FAMILIES if ENTRIES[family].recurrence]
every_hybrid = pytest.mark.parametrize("family", HYBRIDS)

ROWS = {
    "one group": (Group(9, (5, 2, 7)),),
    "shorter than the convolution": (Group(1, (1, 2, 3)), Group(2, (4, 1)), Group(3, (1,))),
    "around a chunk": (Group(63, (64, 1)), Group(64, (65, 63)), Group(65, (1, 128, 129))),
    "several chunks": (Group(200, (70, 140)),),
    "without completions": (Group(5, ()), Group(8, (3, 3)), Group(6, ())),
    "nothing but prompts": (Group(5, ()), Group(5, ())),
}


def random_groups(seed: int) -> tuple[Group, ...]:
    generator = torch.Generator().manual_seed(seed)

    def draw(most: int) -> int:
        return int(torch.randint(1, most, (), generator=generator))

    return tuple(
        Group(draw(80), tuple(draw(80) for _ in range(draw(5) - 1))) for _ in range(draw(4))
    )


@pytest.fixture(scope="module")
def nets(checkpoints: dict[str, Path]) -> dict[str, nn.Module]:
    """Return a recurrence of each family, in float64."""
    return {f: recurrences(sharp_policy(checkpoints[f]).double().model)[0] for f in HYBRIDS}


def row_of(net: Any, groups: tuple[Group, ...], seed: int = 0) -> Tensor:
    size = sum(group.size for group in groups)
    generator = torch.Generator().manual_seed(seed)
    row = torch.randn(1, size, net.hidden_size, generator=generator, dtype=torch.float64)
    return row.requires_grad_()


def one_by_one(net: Any, row: Tensor, groups: tuple[Group, ...]) -> Tensor:
    """Read each prompt, and behind it each of its completions, by itself."""
    pieces, start = [], 0
    for group in groups:
        prompt, *completions = row[:, start : start + group.size].split(
            [group.prompt, *group.completions], 1
        )
        pieces.append(net(prompt))
        pieces += [net(torch.cat([prompt, own], 1))[:, group.prompt :] for own in completions]
        start += group.size
    return torch.cat(pieces, 1)


def results(net: Any, row: Tensor, out: Tensor) -> list[Tensor]:
    """Return `out` and the gradients of a random combination of it."""
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out, *torch.autograd.grad((out * weights).sum(), [row, *net.parameters()])]


def check(net: Any, groups: tuple[Group, ...]) -> None:
    row = row_of(net, groups)
    ours = results(net, row, net(row, segments=Segments(groups, CPU)))
    oracle = results(net, row, one_by_one(net, row, groups))
    for one, other in zip(ours, oracle, strict=True):
        assert other.any()
        # the layer computes its decay and its norm in float32 whatever the precision
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6 * float(other.abs().max()))


@every_hybrid
@pytest.mark.usefixtures("wide_delta_rules")
@pytest.mark.parametrize("row", ROWS)
def test_segments_equal_each_completion_alone(
    family: str, row: str, nets: dict[str, nn.Module]
) -> None:
    check(nets[family], ROWS[row])


@every_hybrid
@pytest.mark.usefixtures("wide_delta_rules")
@pytest.mark.parametrize("seed", range(8))
def test_segments_of_random_rows_equal_each_completion_alone(
    family: str, seed: int, nets: dict[str, nn.Module]
) -> None:
    check(nets[family], random_groups(seed))


@every_hybrid
@pytest.mark.usefixtures("wide_delta_rules")
def test_comparison_sees_a_state_that_is_not_handed_on(
    family: str, nets: dict[str, nn.Module]
) -> None:
    """Nor the columns of the convolution alone, nor the state alone."""
    net, groups = nets[family], ROWS["one group"]
    row = row_of(net, groups).detach()
    right = one_by_one(net, row, groups)
    alone = tuple(Group(n, ()) for n in Segments(groups, CPU).pieces)
    forgotten = net(row, segments=Segments(alone, CPU)) - right
    first, last = forgotten[0, 9].abs().max(), forgotten[0, -1].abs().max()
    assert min(first, last) > 0.01 * right.abs().max()


@every_hybrid
def test_what_lies_in_the_padding_is_never_read(family: str, nets: dict[str, nn.Module]) -> None:
    net, segments = nets[family], Segments((Group(10, (20, 19)), Group(9, (1, 6))), CPU)
    row = row_of(net, segments.groups).detach()
    with torch.no_grad():
        before = net(row, segments=segments)
        lanes = lanes_of(segments)
        all_lanes = (*lanes.prompts, *lanes.completions)
        padding = ~torch.cat([lane.is_real.flatten() for lane in all_lanes])
        assert padding.sum() >= 3
        lanes._places[padding] = torch.randint(row.shape[1], (int(padding.sum()),))
        assert torch.equal(net(row, segments=segments), before)


@pytest.mark.parametrize("seed", range(20))
def test_lanes_hold_every_place_once_and_begin_at_their_own_prompt(seed: int) -> None:
    segments = Segments(random_groups(seed), CPU)
    lanes = Lanes(segments)
    row = torch.arange(sum(segments.pieces))[:, None]
    prompts, completions = lanes.lay(row)
    assert torch.equal(lanes.row([*prompts, *completions]), row)
    ends = torch.cat([beside[:, -1, 0] for beside in prompts])
    starts = dict(zip(segments.starts, segments.pieces, strict=True))
    for lane, beside in zip(lanes.completions, completions, strict=True):
        for owner, first in zip(lane.owners, beside[:, 0, 0].tolist(), strict=True):
            own = [end for end in ends.tolist() if end < first]
            assert int(ends[owner]) == max(own)
            assert first in starts
        assert lane.is_real[:, 0].all()
    for lane in lanes.prompts:
        assert lane.is_real[:, -1].all()
    for lane in (*lanes.prompts, *lanes.completions):
        assert lane.is_real.sum() >= (1 - MOST_PADDING) * lane.is_real.numel() or (
            lane.is_real.shape[1] == LEAST
        )


@every_hybrid
def test_logprobs_do_not_depend_on_the_neighbours_in_the_row(
    family: str, checkpoints: dict[str, Path]
) -> None:
    policy = sharp_policy(checkpoints[family])
    prompts = prompts_of(PromptEncoder(str(checkpoints[family])), "mixed")
    rows = random_rows(prompts, (9, 1, 14, 5))
    with torch.no_grad():
        together = policy.logprobs(rows, temperature=1.0).logprobs
        for index in range(len(rows)):
            alone = policy.logprobs(_only(rows, index), temperature=1.0).logprobs
            torch.testing.assert_close(alone[0], together[index], rtol=1e-6, atol=1e-5)


def _only(rows: Rows, index: int) -> Rows:
    return Rows(
        prompts=(rows.prompts[int(rows.row_prompt[index])],),
        row_prompt=torch.zeros(1, dtype=torch.int64),
        completion_ids=rows.completion_ids[index, None],
        completion_mask=rows.completion_mask[index, None],
        sampling_logprobs=rows.sampling_logprobs[index, None],
    )


@every_hybrid
def test_bfloat16_is_as_close_as_one_by_one(family: str, checkpoints: dict[str, Path]) -> None:
    net: Any = recurrences(sharp_policy(checkpoints[family]).model)[0]
    groups = random_groups(3)
    row = row_of(net, groups).detach().float()
    with torch.no_grad():
        exact = one_by_one(net, row, groups)
        with torch.autocast("cpu", torch.bfloat16):
            ours = net(row, segments=Segments(groups, CPU)).float()
            theirs = one_by_one(net, row, groups).float()
    assert (ours - exact).abs().mean() < 1.2 * (theirs - exact).abs().mean()


@every_hybrid
def test_a_row_is_read_in_one_pass_with_no_cache_left(
    family: str, checkpoints: dict[str, Path]
) -> None:
    """With gradient checkpointing each layer is read twice, and nothing else changes."""
    rows = random_rows(prompts_of(PromptEncoder(str(checkpoints[family])), "mixed"), (9, 1, 4))
    for checkpointing in (False, True):
        policy = Policy.from_pretrained(
            str(checkpoints[family]), gradient_checkpointing=checkpointing
        )
        seen = _calls(policy)
        policy.logprobs(rows, temperature=1.0).logprobs.sum().backward()
        assert len(seen) == (1 + checkpointing) * len(recurrences(policy.model))
        assert all(given["cache_params"] is None for given in seen)


def _calls(policy: Policy) -> list[dict[str, Any]]:
    """Return a list that each call of a recurrence adds its arguments to."""
    seen: list[dict[str, Any]] = []
    for net in recurrences(policy.model):
        net.register_forward_pre_hook(lambda *given: seen.append(given[-1]), with_kwargs=True)
    return seen


def test_families_without_a_recurrence_have_none(checkpoints: dict[str, Path]) -> None:
    for family in FAMILIES:
        found = recurrences(Policy.from_pretrained(str(checkpoints[family])).model)
        assert bool(found) == (family in HYBRIDS)
