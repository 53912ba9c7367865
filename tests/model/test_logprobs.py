"""linear_logprobs against the log-softmax of the full logits in float64.

Broken on purpose, one at a time, each seen red:
    the temperature left out, forward or backward, of either output -> naive float64
    banned ids left out, or at minus infinity -> naive float64
    sums not scaled when the maximum rises, in total or moment -> naive float64
    the entropy's gradient with the other sign, or without the moment -> naive float64
    the weight's gradient of the last tile only -> naive float64
    the gradient of `hidden` summed in bfloat16 -> bfloat16 sums
    gradients None made zeros -> entropy only where asked for
    the mean weight never summed, or without gradients too -> products
    the mean weight not divided, or not scaled -> gradient of each output
"""

import weakref
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vlm_rl.model.logprobs import TokenStats, linear_logprobs
from vlm_rl.model.tiles import default_tile_ids

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


@pytest.mark.parametrize("tile_ids", [1, 2, 7, 49, 50, None])  # 7 and 49 leave a rest
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("banned", [None, BANNED], ids=["all_ids", "banned_ids"])
def test_values_and_gradients_match_naive_float64(tile_ids, temperature, banned):
    hidden, weight, targets = inputs()
    options = {"temperature": temperature, "banned_ids": banned, "tile_ids": tile_ids}
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
            tile_ids=3,
        )
        return tuple(values for values in stats if values is not None)

    assert torch.autograd.gradcheck(outputs, (hidden, weight))


class Counted(TorchDispatchMode):
    """How often each operation ran, by name; the variant in place of one counts as that."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func._schema.name.removeprefix("aten::").rstrip("_")] += 1
        return func(*args, **(kwargs or {}))

    @property
    def products(self) -> int:
        return self.calls["mm"] + self.calls["addmm"]


def test_entropy_only_where_asked_for():
    hidden, weight, targets = inputs()
    without = linear_logprobs(hidden, weight, targets)
    assert without.entropy is None
    with_entropy = linear_logprobs(hidden, weight, targets, with_entropy=True)
    assert torch.equal(without.logprobs, with_entropy.logprobs)
    counts = []
    for stats in (without, with_entropy):
        with Counted() as counted:
            first = torch.autograd.grad(stats.logprobs.sum(), (hidden, weight))
        counts.append((counted.calls, first))
    # an entropy that no loss depends on costs nothing in backward
    assert counts[0][0] == counts[1][0]
    torch.testing.assert_close(counts[0][1], counts[1][1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("trained", "entropy_in_loss", "products"),
    [
        ("both", False, 4),
        ("both", True, 4),
        ("hidden", False, 2),
        ("hidden", True, 4),  # the mean weight for nothing
        ("weight", False, 3),
        ("neither", False, 1),
    ],
)
def test_products_are_those_of_the_docstring(trained, entropy_in_loss, products):
    hidden, weight, targets = inputs()
    hidden.requires_grad_(trained in ("both", "hidden"))
    weight.requires_grad_(trained in ("both", "weight"))
    leaves = [leaf for leaf in (hidden, weight) if leaf.requires_grad]
    with Counted() as counted:
        stats = linear_logprobs(hidden, weight, targets, with_entropy=True)
        if entropy_in_loss:
            gradients(stats, *leaves)
        elif leaves:
            torch.autograd.grad(stats.logprobs.sum(), leaves)
    assert counted.products == products
    with Counted() as counted, torch.no_grad():  # as old and reference log-probabilities are
        linear_logprobs(hidden, weight, targets)
    assert counted.products == 1


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


@pytest.mark.parametrize("loss", ["logprobs", "entropy", "both"])
@pytest.mark.parametrize("frozen", ["hidden", "weight", "neither"])
def test_gradient_of_each_output_by_each_input_matches_naive_float64(frozen, loss):
    hidden, weight, targets = inputs()
    leaves = {"hidden": hidden, "weight": weight}

    def gradients_of(stats: TokenStats) -> list[Tensor]:
        rows = torch.linspace(-1, 2, len(targets), dtype=torch.float64)
        terms = {"logprobs": stats.logprobs @ rows, "entropy": stats.entropy @ rows.flip(0)}
        total = sum(terms.values()) if loss == "both" else terms[loss]
        return list(torch.autograd.grad(total, list(leaves.values())))

    if frozen != "neither":
        leaves.pop(frozen).requires_grad_(False)
    options = {"temperature": 0.7, "banned_ids": BANNED, "tile_ids": 9}
    stats = linear_logprobs(hidden, weight, targets, with_entropy=True, **options)
    expected = gradients_of(naive(hidden, weight, targets, 0.7))
    torch.testing.assert_close(gradients_of(stats), expected, rtol=1e-11, atol=1e-12)


def test_tied_weight_gets_the_gradient_of_both_its_uses():
    _, weight, targets = inputs()
    rows = torch.arange(11).flip(0)

    def gradient(function) -> Tensor:
        return gradients(function(torch.tanh(weight[rows]), weight, targets), weight)[0]

    actual = gradient(
        lambda *inputs: linear_logprobs(*inputs, banned_ids=BANNED, with_entropy=True, tile_ids=9)
    )
    torch.testing.assert_close(actual, gradient(naive), rtol=1e-11, atol=1e-12)


def test_large_logits_match_naive_float64():
    """Products of small integers are exact in float32, so all that is lost is lost in the sums."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randint(-99, 100, (11, H), generator=generator).float().requires_grad_()
    weight = torch.randint(-99, 100, (V, H), generator=generator).float()
    weight[10:40] = weight[10] + torch.randint(2, (30, H), generator=generator) / 64
    weight.requires_grad_()
    targets = 8 + torch.randint(V - 10, (11,), generator=generator)
    options = {"banned_ids": BANNED, "with_entropy": True, "tile_ids": 9}
    stats = linear_logprobs(hidden, weight, targets, **options)
    expected = naive(hidden, weight, targets)
    assert expected.logprobs.min() < -10_000
    assert expected.entropy.max() > 1
    exact = TokenStats(*(values.float() for values in expected[:2]))
    torch.testing.assert_close(stats, exact, rtol=1e-6, atol=1e-6)
    pairs = zip(gradients(stats, hidden, weight), gradients(expected, hidden, weight), strict=True)
    for actual, wanted in pairs:
        assert (actual - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_row_that_is_not_finite_stays_alone():
    hidden, weight, targets = inputs()
    with torch.no_grad():
        hidden[3, 0] = torch.nan
    stats = linear_logprobs(hidden, weight, targets, banned_ids=BANNED, tile_ids=9)
    assert stats.logprobs.isnan().tolist() == [row == 3 for row in range(11)]


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
    torch.testing.assert_close(stats, TokenStats(*(values.float() for values in expected[:2])))
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


def test_bfloat16_sums_over_rows_and_tiles_match_float64():
    """Sums in bfloat16 over 250 tiles or 2,000 rows would lose percents."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2000, H, generator=generator).bfloat16().requires_grad_()
    weight = torch.randn(500, H, generator=generator).bfloat16().requires_grad_()
    targets = torch.randint(8, 12, (2000,), generator=generator)
    # of one sign, so that errors add up
    stats = linear_logprobs(hidden, weight, targets, banned_ids=BANNED, tile_ids=2)
    actual = torch.autograd.grad(stats.logprobs.sum(), (hidden, weight))
    expected = naive(hidden, weight, targets)
    exact = torch.autograd.grad(expected.logprobs.sum(), (hidden, weight))
    for got, wanted in zip(actual, exact, strict=True):
        assert got.dtype == torch.bfloat16
        assert (got.double() - wanted.double()).norm() < 0.004 * wanted.double().norm()


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


@pytest.mark.parametrize("entropy_in_loss", [False, True])
def test_logits_are_never_whole(entropy_in_loss):
    num, vocabulary, tile_ids = 400, 500, 8
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(num, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(vocabulary, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocabulary, (num,), generator=generator)
    weight.requires_grad_()
    with Allocated() as allocated:
        stats = linear_logprobs(hidden, weight, targets, with_entropy=True, tile_ids=tile_ids)
        if entropy_in_loss:
            gradients(stats, hidden, weight)
        else:
            torch.autograd.grad(stats.logprobs.sum(), (hidden, weight))
    assert allocated.largest == tile_ids * num
    # two tiles, numbers per row, and the gradients; the logits would be 200,000 elements
    assert allocated.peak < 2 * tile_ids * num + 25 * num + 2 * vocabulary * 4


def test_autocast_casts_no_more_than_a_tile():
    """Only its gradient is as large as a float32 weight; there is no copy in bfloat16."""
    vocabulary, tile_ids = 5000, 20
    leaves = [torch.randn(rows, 8, requires_grad=True) for rows in (30, vocabulary)]
    targets = torch.zeros(30, dtype=torch.int64)
    with Allocated() as allocated, torch.autocast("cpu", torch.bfloat16):
        stats = linear_logprobs(*leaves, targets, with_entropy=True, tile_ids=tile_ids)
        assert allocated.largest == vocabulary  # what is added to the logits
        torch.autograd.grad(stats.logprobs.sum(), leaves)
    assert allocated.largest == 8 * vocabulary
    # weight and gradient are 4 [V] of 8 bytes each, what is added 1/2; a copy would be 2 more
    assert allocated.peak < 10 * vocabulary


@pytest.mark.parametrize("num", [0, 1, 256, 4096, 8192])
def test_default_tile_is_bounded(num):
    for device, most in (("cpu", 1 << 22), ("cuda", 1 << 25)):
        ids = default_tile_ids(num, device)
        assert ids >= 512
        assert num * ids <= most


def test_naive_logits_are_seen_by_the_measure():
    hidden, weight, targets = inputs(40)
    with Allocated() as allocated:
        gradients(naive(hidden, weight, targets), hidden, weight)
    assert allocated.largest >= 40 * (V - len(BANNED))
