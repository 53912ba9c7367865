"""linear_logprobs against the log-softmax of the full logits in float64.

Broken on purpose, one at a time, each seen red:
    the temperature left out, forward or backward -> naive float64, gradcheck
    the banned ids left out of the logits, of the entropy or of its gradient -> banned ids, naive
    the entropy's gradient with the other sign, or without H -> naive, gradcheck
    the weight's gradient of the last chunk only -> naive, gradcheck
    one chunk of all rows -> logits are never whole
    sums in bfloat16 -> bfloat16; autocast not decided for both passes -> autocast
"""

import weakref

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vlm_rl.model.logprobs import TokenStats, linear_logprobs

V, H = 50, 6
BANNED = torch.tensor([0, 7, 49])


def inputs(num: int = 11, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden [num, H] and weight [V, H], leaves; targets [num], none of them banned."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(num, H, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(V, H, generator=generator, dtype=torch.float64).to(dtype)
    targets = 8 + torch.randint(V - 10, (num,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def naive(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    banned: Tensor = BANNED,
) -> TokenStats:
    """Compute the same from all logits of the allowed ids, in float64."""
    allowed = torch.ones(len(weight), dtype=torch.bool)
    allowed[banned] = False
    logits = hidden.double() @ weight.double()[allowed].T / temperature
    log_p = logits.log_softmax(-1)
    column = allowed.cumsum(0)[targets] - 1
    logprobs = log_p.gather(1, column[:, None])[:, 0]
    return TokenStats(logprobs, -(log_p.exp() * log_p).sum(-1))


def gradients(stats: TokenStats, *leaves: Tensor) -> tuple[Tensor, ...]:
    """Of a sum in which every logprob and every entropy has a weight of its own."""
    assert stats.entropy is not None
    count = len(stats.logprobs)
    weights = torch.linspace(-1, 2, 2 * count, dtype=stats.logprobs.dtype)
    total = stats.logprobs @ weights[:count] + stats.entropy @ weights[count:]
    return torch.autograd.grad(total, leaves)


@pytest.mark.parametrize("chunk_rows", [1, 2, 5, 11, 256])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("banned", [None, BANNED], ids=["all_ids", "banned_ids"])
def test_values_and_gradients_match_naive_float64(chunk_rows, temperature, banned):
    hidden, weight, targets = inputs()
    options = {"temperature": temperature, "banned_ids": banned, "chunk_rows": chunk_rows}
    stats = linear_logprobs(hidden, weight, targets, with_entropy=True, **options)
    none = torch.tensor([], dtype=torch.int64)
    expected = naive(hidden, weight, targets, temperature, none if banned is None else banned)
    assert stats.logprobs.dtype == torch.float64
    torch.testing.assert_close(stats, expected, rtol=1e-12, atol=1e-12)
    actual = gradients(stats, hidden, weight)
    torch.testing.assert_close(actual, gradients(expected, hidden, weight), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("with_entropy", [False, True])
def test_gradcheck(with_entropy):
    hidden, weight, targets = inputs(4)

    def outputs(hidden, weight):
        stats = linear_logprobs(
            hidden,
            weight,
            targets,
            temperature=0.8,
            banned_ids=BANNED,
            with_entropy=with_entropy,
            chunk_rows=3,
        )
        return tuple(values for values in stats if values is not None)

    assert torch.autograd.gradcheck(outputs, (hidden, weight))


def test_entropy_only_where_asked_for():
    hidden, weight, targets = inputs()
    without = linear_logprobs(hidden, weight, targets)
    assert without.entropy is None
    with_entropy = linear_logprobs(hidden, weight, targets, with_entropy=True)
    assert torch.equal(without.logprobs, with_entropy.logprobs)
    (first,) = torch.autograd.grad(without.logprobs.sum(), hidden)
    (second,) = torch.autograd.grad(with_entropy.logprobs.sum(), hidden)
    assert torch.equal(first, second)


def test_banned_ids_have_probability_zero_and_no_gradient():
    hidden, weight, _ = inputs(1)
    allowed = [index for index in range(V) if index not in BANNED.tolist()]
    repeated = hidden.expand(len(allowed), H)
    stats = linear_logprobs(
        repeated, weight, torch.tensor(allowed), banned_ids=BANNED, with_entropy=True
    )
    # nothing is left over for the banned ids
    assert stats.logprobs.exp().sum().item() == pytest.approx(1, rel=1e-12)
    assert stats.entropy.isfinite().all()
    gradient_hidden, gradient_weight = gradients(stats, hidden, weight)
    assert gradient_hidden.isfinite().all()
    assert not gradient_weight[BANNED].any()
    assert gradient_weight[allowed].any(-1).all()
    moved = weight.detach().clone()
    moved[BANNED] += 100.0
    same = linear_logprobs(
        repeated, moved, torch.tensor(allowed), banned_ids=BANNED, with_entropy=True
    )
    torch.testing.assert_close(same, stats, rtol=0, atol=0)


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_frozen_input_gets_no_gradient(frozen):
    hidden, weight, targets = inputs()
    expected = gradients(naive(hidden, weight, targets), hidden, weight)
    {"hidden": hidden, "weight": weight}[frozen].requires_grad_(False)
    stats = linear_logprobs(hidden, weight, targets, banned_ids=BANNED, with_entropy=True)
    leaf, wanted = (weight, expected[1]) if frozen == "hidden" else (hidden, expected[0])
    torch.testing.assert_close(gradients(stats, leaf)[0], wanted, rtol=1e-11, atol=1e-12)


def test_no_rows():
    hidden, weight, targets = inputs(0)
    stats = linear_logprobs(hidden, weight, targets, banned_ids=BANNED, with_entropy=True)
    assert stats.logprobs.shape == stats.entropy.shape == (0,)
    gradient_hidden, gradient_weight = gradients(stats, hidden, weight)
    assert gradient_hidden.shape == (0, H)
    assert torch.equal(gradient_weight, torch.zeros(V, H, dtype=torch.float64))


def test_float32_is_close():
    hidden, weight, targets = inputs(dtype=torch.float32)
    stats = linear_logprobs(hidden, weight, targets, banned_ids=BANNED, with_entropy=True)
    assert stats.logprobs.dtype == torch.float32
    expected = naive(hidden, weight, targets)
    torch.testing.assert_close(stats, TokenStats(*(values.float() for values in expected)))
    actual = gradients(stats, hidden, weight)
    torch.testing.assert_close(actual, gradients(expected, hidden, weight), rtol=1e-4, atol=1e-5)


def test_bfloat16_is_close():
    hidden, weight, targets = inputs(dtype=torch.bfloat16)
    expected = naive(hidden, weight, targets)
    stats = linear_logprobs(hidden, weight, targets, banned_ids=BANNED, with_entropy=True)
    assert stats.logprobs.dtype == torch.float32
    # a logit of up to 8 is rounded to 2^-9 of itself, 0.016; the normalizer has an error too
    torch.testing.assert_close(stats.logprobs.double(), expected.logprobs, rtol=0, atol=0.04)
    torch.testing.assert_close(stats.entropy.double(), expected.entropy, rtol=0, atol=0.04)
    pairs = zip(gradients(stats, hidden, weight), gradients(expected, hidden, weight), strict=True)
    for actual, exact in pairs:
        assert actual.dtype == torch.bfloat16
        assert (actual.double() - exact.double()).norm() < 0.02 * exact.double().norm()


def test_autocast_is_the_product_in_bfloat16():
    hidden, weight, targets = inputs(dtype=torch.bfloat16)
    options = {"banned_ids": BANNED, "with_entropy": True}
    expected = linear_logprobs(hidden, weight, targets, **options)
    leaves = [leaf.detach().float().requires_grad_() for leaf in (hidden, weight)]
    with torch.autocast("cpu", torch.bfloat16):
        stats = linear_logprobs(*leaves, targets, **options)
    torch.testing.assert_close(stats, expected, rtol=0, atol=0)
    wanted = [gradient.float() for gradient in gradients(expected, hidden, weight)]
    torch.testing.assert_close(list(gradients(stats, *leaves)), wanted, rtol=0, atol=0)


class Allocated(TorchDispatchMode):
    """Elements of the largest tensor made by any operation, and of all that live at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.peak = 0
        self.living: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.living = [ref for ref in self.living if ref() is not None]
        self.living += [weakref.ref(tensor) for tensor in made]
        tensors = [tensor for ref in self.living if (tensor := ref()) is not None]
        sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        self.largest = max([self.largest, *(tensor.numel() for tensor in made)])
        self.peak = max(self.peak, sum(sizes.values()) // 8)
        return result


def test_logits_are_never_whole():
    num, vocabulary, chunk_rows = 400, 500, 8
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(num, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(vocabulary, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocabulary, (num,), generator=generator)
    weight.requires_grad_()
    with Allocated() as allocated:
        stats = linear_logprobs(hidden, weight, targets, with_entropy=True, chunk_rows=chunk_rows)
        gradients(stats, hidden, weight)
    assert allocated.largest == chunk_rows * vocabulary
    # a few chunks side by side, and the gradients; the logits would be 200,000 elements
    assert allocated.peak < 8 * chunk_rows * vocabulary


def test_naive_logits_are_seen_by_the_measure():
    hidden, weight, targets = inputs(40)
    with Allocated() as allocated:
        gradients(naive(hidden, weight, targets), hidden, weight)
    assert allocated.largest >= 40 * (V - len(BANNED))
