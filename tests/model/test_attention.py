"""Attention by segments against the dense mask, in every way that there is to compute it.

The kernels of a GPU run here through torch's own calls, with the kernel alone replaced by what its
documentation says of it, in the precision of its input.

Broken on purpose, one at a time, each seen red: causal attention of a completion to its prompt;
a merge without the weights of the parts; a share of the gradient with the part's own log-sum-exp;
padding that gets a gradient; the place of one piece taken for the next; pieces of half
the length side by side.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.oracles import dense_mask
from vlm_rl.model import attention
from vlm_rl.model.attention import Attention, Group, Segments, attention_for
from vlm_rl.model.attention.agreement import disagreement
from vlm_rl.model.attention.cpu import CpuKernel
from vlm_rl.model.attention.merged import merged_attention
from vlm_rl.model.attention.plain import plain_attention
from vlm_rl.model.attention.segments import MOST_PADDING
from vlm_rl.model.attention.varlen import VarlenKernel, gathered_attention, varlen_attention

CPU = torch.device("cpu")
HEADS, KEY_HEADS, WIDTH, SCALE = 6, 2, 8, 0.3

WAYS: dict[str, Attention] = {
    "plain": plain_attention,
    "cpu": lambda q, k, v, segments, scale: merged_attention(q, k, v, segments, scale, CpuKernel()),
    "varlen merged": lambda q, k, v, segments, scale: merged_attention(
        q, k, v, segments, scale, VarlenKernel()
    ),
    "varlen gathered": gathered_attention,
    "varlen": varlen_attention,
}

ROWS: dict[str, tuple[Group, ...]] = {
    "one prompt alone": (Group(5, ()),),
    "one token each": (Group(1, (1,)),),
    "equal": (Group(7, (4, 4, 4)),),
    "uneven": (Group(9, (5, 1, 30)), Group(3, ()), Group(1, (2,)), Group(20, (40, 3, 3, 39))),
    "long answers": (Group(3, (70, 64, 66, 1)),),
}


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    """Give the kernels of a GPU a meaning on a CPU."""
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", _varlen_forward, "CPU")
        library.impl("_flash_attention_backward", _varlen_backward, "CPU")
        yield


def _varlen_forward(query, key, value, ends_q, ends_k, max_q, max_k, dropout, causal, *_, **kwargs):  # type: ignore[no-untyped-def]
    assert int(ends_q.diff().max()) == max_q
    assert int(ends_k.diff().max()) == max_k
    repeats = query.shape[1] // key.shape[1]
    outs, normalizers = [], []
    for q, k in _sequences(ends_q, ends_k):
        scores = _scores(query[q], key[k].repeat_interleave(repeats, 1), causal, kwargs["scale"])
        normalizers.append(scores.logsumexp(-1))
        p = scores.softmax(-1)
        outs.append(torch.einsum("hqk,khd->qhd", p, value[k].repeat_interleave(repeats, 1)))
    nothing = torch.empty(0)
    return torch.cat(outs), torch.cat(normalizers, -1), nothing, nothing, nothing


def _varlen_backward(  # type: ignore[no-untyped-def]
    grad, query, key, value, out, lse, ends_q, ends_k, max_q, max_k, dropout, causal, *_, **kwargs
):
    repeats = query.shape[1] // key.shape[1]
    gradients = [torch.zeros_like(x) for x in (query, key, value)]
    for q, k in _sequences(ends_q, ends_k):
        keys, values = (x[k].repeat_interleave(repeats, 1) for x in (key, value))
        p = (_scores(query[q], keys, causal, kwargs["scale"]) - lse[:, q, None]).exp()
        of_p = torch.einsum("qhd,khd->hqk", grad[q], values)
        of_scores = p * (of_p - (grad[q] * out[q]).sum(-1).T[..., None]) * kwargs["scale"]
        gradients[0][q] = torch.einsum("hqk,khd->qhd", of_scores, keys)
        of_key = torch.einsum("hqk,qhd->khd", of_scores, query[q])
        of_value = torch.einsum("hqk,qhd->khd", p, grad[q])
        for whole, part in zip(gradients[1:], (of_key, of_value), strict=True):
            whole[k] += part.unflatten(1, (-1, repeats)).sum(2)
    return tuple(gradients)


def _sequences(ends_q: Tensor, ends_k: Tensor) -> Iterator[tuple[slice, slice]]:
    for q, k in zip(pairwise(ends_q.tolist()), pairwise(ends_k.tolist()), strict=True):
        yield slice(*q), slice(*k)


def _scores(query: Tensor, key: Tensor, causal: bool, scale: float) -> Tensor:
    scores = torch.einsum("qhd,khd->hqk", query, key) * scale
    ahead = torch.ones(len(query), len(key)).tril(len(key) - len(query)) == 0
    return scores.masked_fill(ahead & causal, float("-inf"))


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float
) -> Tensor:
    repeats = len(query) // len(key)
    key, value = key.repeat_interleave(repeats, 0), value.repeat_interleave(repeats, 0)
    scores = (query @ key.mT * scale).masked_fill(~dense_mask(segments.groups), float("-inf"))
    return scores.softmax(-1) @ value


def inputs(groups: tuple[Group, ...], dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, ...]:
    """Make a random query, key, value and gradient of the output, exact in every precision."""
    generator = torch.Generator().manual_seed(seed)
    size = sum(group.size for group in groups)
    heads = (HEADS, KEY_HEADS, KEY_HEADS, HEADS)
    shapes = [(n, size, WIDTH) for n in heads]
    return tuple((2 * torch.randn(s, generator=generator)).bfloat16().to(dtype) for s in shapes)


def results(attention: Attention, groups: tuple[Group, ...], dtype: torch.dtype) -> list[Tensor]:
    """Return the output, and the gradients of query, key and value."""
    *leaves, grad = inputs(groups, dtype)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    out = attention(*leaves, Segments(groups, CPU), SCALE)
    return [out, *torch.autograd.grad(out, leaves, grad)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("row", ROWS)
def test_segments_equal_the_dense_mask_in_float64(way: str, row: str) -> None:
    ours = results(WAYS[way], ROWS[row], torch.float64)
    dense = results(dense_attention, ROWS[row], torch.float64)
    for one, other in zip(ours, dense, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("way", ["plain", "cpu"])
@pytest.mark.parametrize("seed", range(20))
def test_segments_of_random_rows_equal_the_dense_mask(way: str, seed: int) -> None:
    groups = random_groups(seed)
    ours = results(WAYS[way], groups, torch.float64)
    for one, other in zip(ours, results(dense_attention, groups, torch.float64), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("row", ROWS)
def test_rounding_is_that_of_the_precision(dtype: torch.dtype, row: str) -> None:
    exact = results(dense_attention, ROWS[row], torch.float64)
    bound = {torch.float32: 5e-6, torch.bfloat16: 0.05}[dtype]
    for one, other in zip(results(WAYS["cpu"], ROWS[row], dtype), exact, strict=True):
        assert one.dtype == dtype
        assert (one.double() - other).abs().max() <= bound * other.abs().max()


def random_groups(seed: int) -> tuple[Group, ...]:
    generator = torch.Generator().manual_seed(seed)

    def draw(most: int) -> int:
        return int(torch.randint(1, most, (), generator=generator))

    return tuple(
        Group(draw(20), tuple(draw(30) for _ in range(draw(6) - 1))) for _ in range(draw(5))
    )


@pytest.mark.parametrize("seed", range(20))
def test_buckets_hold_every_place_once_with_little_padding(seed: int) -> None:
    segments = Segments(random_groups(seed), CPU)
    row = torch.arange(sum(segments.pieces))[None]
    again = torch.full_like(row, -1)
    for bucket in segments.buckets:
        beside = bucket.of(row)
        is_real = bucket.without_padding(torch.ones(*beside.shape, 1)) == 1
        assert is_real.sum() >= (1 - MOST_PADDING) * is_real.numel()
        bucket.put(again, beside)
    assert torch.equal(again, row)


def test_pieces_of_one_length_are_one_bucket() -> None:
    assert len(Segments((Group(8, (8,) * 5), Group(8, (8, 8))), CPU).buckets) == 1


def test_work_and_memory_grow_with_the_completions_and_not_with_their_square() -> None:
    sizes = [_numbers_made((Group(20, (16,) * n),)) for n in (4, 8, 16)]
    first, second = (b - a for a, b in pairwise(sizes))
    assert second == pytest.approx(2 * first, rel=0.02)
    groups = [_numbers_made((Group(20, (16,) * 4),) * n) for n in (2, 4, 8)]
    first, second = (b - a for a, b in pairwise(groups))
    assert second == pytest.approx(2 * first, rel=0.02)


def _numbers_made(groups: tuple[Group, ...]) -> int:
    class Count(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}
            for x in out if isinstance(out, tuple | list) else [out]:
                if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in given:
                    self.total += x.numel()
            return out

    with Count() as count:
        results(WAYS["cpu"], groups, torch.float32)
    return count.total


def test_a_gpu_takes_the_way_that_copies_less(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for name in ("gathered_attention", "merged_attention"):
        way: Callable[..., Tensor] = getattr(attention.varlen, name)
        monkeypatch.setattr(
            attention.varlen, name, lambda *a, way=way, name=name: taken.append(name) or way(*a)
        )
    for groups in ((Group(4, (50, 50)),), (Group(90, (5, 5)),)):
        results(varlen_attention, groups, torch.float64)
    assert taken == ["gathered_attention", "merged_attention"]


def test_every_device_and_precision_has_a_way() -> None:
    assert attention_for(torch.device("cuda"), torch.float32) is plain_attention
    assert attention_for(torch.device("mps"), torch.float32) is plain_attention


def test_kernels_of_a_device_are_compared_before_they_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert disagreement(CPU, torch.float32) is None
    with monkeypatch.context() as patch:
        patch.setattr(attention.varlen, "_CAUSAL", (-1, -1))
        assert "is off by" in str(disagreement(CPU, torch.float32))
    with monkeypatch.context() as patch:
        patch.setattr(attention.varlen, "varlen_attn", _raise)
        assert disagreement(CPU, torch.float32) == "fails: no kernel image is available"


def _raise(*_: Any, **__: Any) -> None:
    raise RuntimeError("no kernel image is available\nfor execution")
