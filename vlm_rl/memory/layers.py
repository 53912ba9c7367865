"""The layers of a model: their widths, and the bytes that a token or patch takes in them.

A layer is a mixer over the row (attention or a recurrence) and an MLP or a mixture of experts. The
sums name what autograd saves in the layers that transformers has for Qwen-VL, with attention by
segments and the recurrence in torch, without kernels for it. `compute` is the bytes of a number in
a matrix product.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

FLOAT = 4
CHUNK = 64
"""Tokens that Gated DeltaNet reads at a time: transformers' default."""


@dataclass(frozen=True)
class Heads:
    """Of attention: `queries` and `keys` (and as many values) are the widths of all heads, `gated`
    whether the output is multiplied by a gate as wide as the queries."""

    heads: int
    queries: int
    keys: int
    gated: bool = False

    matrices = 3

    @property
    def wide_norms(self) -> bool:
        """Return whether the norms of its layer scale in float32: in Qwen3.5, as the gates are."""
        return self.gated

    def kept(self, compute: int) -> int:
        """Return queries and keys before and after half of a rotation, queries, keys and values
        for every head, output and sums. Where there is a gate, norms of heads are in float32."""
        norms = 2 * (self.queries + self.keys) * FLOAT if self.gated else 0
        return (6 * self.queries + 2 * self.keys) * compute + self.heads * FLOAT + norms

    def gradients(self, compute: int) -> int:
        return 0

    def at_once(self, compute: int) -> int:
        return 0

    def cached(self, compute: int) -> int:
        """Return the keys and values of a token."""
        return 2 * self.keys * compute

    def state(self, compute: int) -> int:
        return 0


@dataclass(frozen=True)
class Recurrence:
    """Gated DeltaNet: `heads` with a state of `key_width` x `value_width` numbers, and a
    convolution over `columns` tokens of `channels` before them."""

    heads: int
    key_width: int
    value_width: int
    channels: int
    columns: int

    matrices = 4
    wide_norms = True

    @property
    def keys(self) -> int:
        """Return the width of keys, which are repeated for every head of values."""
        return self.heads * self.key_width

    @property
    def values(self) -> int:
        return self.heads * self.value_width

    def kept(self, compute: int) -> int:
        """Return what it keeps, most in float32, with copies for products and where autocast casts.

        Input and output of the convolution. Queries and keys: raw, normalised, with their decay,
        by beta and behind the solved system. Values: raw, solved, new, and six on the way to the
        output. Pairs in a chunk: decays, system, products. Of each chunk its state. Rates.
        """
        half = compute != FLOAT
        keys = (6 * FLOAT + (7 if half else 8) * compute) * self.keys
        values = (6 * FLOAT + (4 if half else 3) * compute) * self.values
        pairs = (2 * FLOAT + 3 * compute) * self.heads * CHUNK
        states = (FLOAT + (2 * compute if half else 0)) * self.keys * self.value_width // CHUNK
        gates = 9 * self.heads * FLOAT
        return 2 * self.channels * compute + keys + values + pairs + states + gates

    def gradients(self, compute: int) -> int:
        """Return the gradients of what all chunks read and write."""
        return (4 * self.keys + 2 * self.values + self.heads * CHUNK) * FLOAT

    def at_once(self, compute: int) -> int:
        """Return what its forward holds until its end, without a graph."""
        read = (5 * self.keys + 4 * self.values + 3 * self.heads * CHUNK) * FLOAT
        return read + (self.channels + self.values) * compute

    def cached(self, compute: int) -> int:
        return 0

    def state(self, compute: int) -> int:
        """Return the state of a row, which is float32, and the end of its convolution's input."""
        return self.keys * self.value_width * FLOAT + self.channels * self.columns * compute


@dataclass(frozen=True)
class Mlp:
    """`width` is the inside, `gated` whether a second matrix multiplies the first."""

    width: int
    gated: bool

    matrices = 2

    def kept(self, compute: int) -> int:
        """Return the output of each matrix but the last, the activation and what it becomes."""
        return (4 if self.gated else 2) * self.width * compute

    def gradients(self, compute: int) -> int:
        return 3 * self.width * compute

    def at_once(self, compute: int) -> int:
        return 3 * self.width * compute


@dataclass(frozen=True)
class Experts:
    """`experts`, `active` of them for each token, each a gated MLP of `width`; and one that every
    token meets, if there is one."""

    hidden: int
    experts: int
    active: int
    width: int
    shared: Mlp | None

    @property
    def matrices(self) -> int:
        """Return the router, what gathers the rows of experts, and the shared expert with its
        gate."""
        return 5 if self.shared else 2

    def kept(self, compute: int) -> int:
        """Return for each chosen expert input and output rows and the inside; the choice."""
        each = (2 * self.hidden + 4 * self.width) * compute
        kept = self.active * each + self.experts * FLOAT
        if self.shared:
            kept += self.shared.kept(compute) + self.hidden * compute
        return kept

    def gradients(self, compute: int) -> int:
        return self.active * (2 * self.hidden + 3 * self.width) * compute

    def at_once(self, compute: int) -> int:
        return self.active * (2 * self.hidden + 3 * self.width) * compute


@dataclass(frozen=True)
class LayerShape:
    """A layer; `hidden` is the residual stream."""

    hidden: int
    mixer: Heads | Recurrence
    mlp: Mlp | Experts

    def kept(self, compute: int, stream: int) -> int:
        """Return what it keeps of a token, with `stream` bytes for a number of the stream.

        Two norms: the input in float32, the normalised one, and what enters the matrices, which
        autocast casts for each of them.
        """
        matrices = self.mixer.matrices + self.mlp.matrices
        inputs = (matrices if compute != stream else 2) * compute
        normalised = FLOAT if self.mixer.wide_norms else stream
        norms = self.hidden * (2 * (FLOAT + normalised) + inputs)
        return norms + self.mixer.kept(compute) + self.mlp.kept(compute)

    def gradients(self, compute: int) -> int:
        """Return what its backward has beside, MLP and mixer being one after the other."""
        return max(self.mixer.gradients(compute), self.mlp.gradients(compute))

    def at_once(self, compute: int) -> int:
        """Return what a forward without a graph holds in it."""
        inside = max(self.mixer.at_once(compute), self.mlp.at_once(compute))
        return inside + 4 * self.hidden * FLOAT


def shape_of(layer: Any, heads: int) -> LayerShape:
    """Read a layer of transformers; `heads` is the number of attention heads."""
    mlp = _mlp(layer.mlp)
    hidden = mlp.hidden if isinstance(mlp, Experts) else _linears(layer.mlp)[0].in_features
    if recurrence := getattr(layer, "linear_attn", None):
        mixer: Heads | Recurrence = _recurrence(recurrence)
    elif attention := getattr(layer, "self_attn", None):
        queries = attention.o_proj.in_features
        keys = attention.k_proj.out_features
        mixer = Heads(heads, queries, keys, attention.q_proj.out_features > queries)
    else:  # the tower's is as wide as hidden
        mixer = Heads(heads, hidden, hidden)
    return LayerShape(hidden, mixer, mlp)


def _mlp(module: Any) -> Mlp | Experts:
    if not hasattr(module, "experts"):
        return _dense(module)
    router, experts = module.gate, module.experts
    number, hidden = router.weight.shape
    shared = getattr(module, "shared_expert", None)
    width = experts.down_proj.numel() // (number * hidden)
    return Experts(hidden, number, router.top_k, width, _dense(shared) if shared else None)


def _dense(module: nn.Module) -> Mlp:
    linears = _linears(module)
    return Mlp(linears[0].out_features, len(linears) == 3)


def _recurrence(module: Any) -> Recurrence:
    return Recurrence(
        module.num_v_heads,
        module.head_k_dim,
        module.head_v_dim,
        module.conv1d.in_channels,
        module.conv_kernel_size,
    )


def _linears(module: nn.Module) -> list[nn.Linear]:
    return [inner for inner in module.modules() if isinstance(inner, nn.Linear)]
