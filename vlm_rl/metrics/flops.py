"""What the mathematics of a step needs in FLOPs, by arithmetic, whatever the code computes.

Of a matrix with W weights and n tokens:   forward 2 W n;   backward 2 W n for the gradient of its
input, if something before it is trained, and 2 W n for its own, if it is trained itself.
Of the attention of a layer, D wide in all query heads, over the pairs of query and key that see
each other:   forward 4 D pairs,   backward 8 D pairs.

A prompt counts once for its group, an image once, the head for completion tokens only. What a code
computes a second time (gradient checkpointing, logits in the backward, scores of flash attention)
does not count: that is model FLOPs utilisation, MFU, as in PaLM (arXiv:2204.02311, appendix B), and
not hardware utilisation. Norms, rotations, softmax and the optimizer are left out.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from vlm_rl.model.attention import Group
from vlm_rl.model.families import recurrences
from vlm_rl.model.packing import groups_of
from vlm_rl.model.policy import Policy
from vlm_rl.records import Prompt, Rollout, Rows

_READS_STREAM = re.compile(r"([qkv]_proj|qkv|in_proj_\w+)(\.base_layer|\.lora_A\.\w+)?$")
"""The matrices that read what comes into a layer, alone or under an adapter."""


@dataclass(frozen=True)
class Work:
    """Prompts with their completions, and the `grids` [height, width] in patches of their images,
    equal images once."""

    groups: tuple[Group, ...]
    grids: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, groups: Iterable[tuple[Prompt, Sequence[int]]]) -> "Work":
        """Take prompts with the lengths of their completions; one without any is no work."""
        answered = [(prompt, [n for n in lengths if n]) for prompt, lengths in groups]
        answered = [(prompt, lengths) for prompt, lengths in answered if lengths]
        grids: dict[bytes, tuple[int, int]] = {}
        for prompt, _ in answered:
            if prompt.grid_thw is not None:
                sizes = prompt.grid_thw[:, 1:].tolist()
                grids |= {key: (h, w) for key, (h, w) in zip(prompt.image_keys, sizes, strict=True)}
        return cls(
            tuple(Group(len(prompt), tuple(lengths)) for prompt, lengths in answered),
            tuple(grids.values()),
        )

    @classmethod
    def of_rows(cls, rows: Rows) -> "Work":
        """Take the trained tokens of `rows`."""
        lengths = [group.completions for group in groups_of(rows)]
        return cls.of(zip(rows.prompts, lengths, strict=True))

    @classmethod
    def of_rollouts(cls, rollouts: Sequence[Rollout]) -> "Work":
        """Take all that was sampled."""
        return cls.of(
            (prompt, [len(completion) for completion in group])
            for rollout in rollouts
            for prompt, group in zip(rollout.prompts, rollout.groups, strict=True)
        )

    @property
    def targets(self) -> int:
        """Return the number of completion tokens."""
        return sum(sum(group.completions) for group in self.groups)

    @property
    def tokens(self) -> int:
        """Return the number of all tokens."""
        return sum(group.size for group in self.groups)


def visible_pairs(groups: Iterable[Group]) -> int:
    """Count the pairs of query and key: prompts and completions are causal, and completions see
    their prompt."""
    pairs = 0
    for group in groups:
        pairs += sum(n * (n + 1) // 2 for n in (group.prompt, *group.completions))
        pairs += group.prompt * sum(group.completions)
    return pairs


@dataclass(frozen=True)
class Matrices:
    """Weights that each token meets, how many of them are `trained`, and how many of them stand
    `first`: their input needs no gradient."""

    weights: int = 0
    trained: int = 0
    first: int = 0

    @classmethod
    def of(cls, modules: Iterable[nn.Module], first: Iterable[nn.Module] = ()) -> "Matrices":
        own, ahead = [_weight(m) for m in modules], [_weight(m) for m in first]
        trained = sum(w.numel() for w in own if w.requires_grad)
        return cls(sum(w.numel() for w in own), trained, sum(w.numel() for w in ahead))

    def plus(self, more: Iterable[tuple[int, bool]]) -> "Matrices":
        """Add further weights, and whether they are trained; none of them stands first."""
        sizes = [(size, size * trained) for size, trained in more]
        weights, trained = (sum(column) for column in zip(*sizes, strict=True)) if sizes else (0, 0)
        return Matrices(self.weights + weights, self.trained + trained, self.first)

    @property
    def backward(self) -> int:
        """Return the weights that a token meets in the backward."""
        return self.weights - self.first + self.trained


class ModelFlops:
    """Counts for one policy; make it before weights are sharded."""

    def __init__(self, policy: Policy) -> None:
        text, tower = policy.part("language_model"), policy.part("vision_tower")
        self._tower = _Tower(policy.model.config.vision_config, tower)
        layers: Any = text.layers
        embeddings: Any = text.embed_tokens
        is_moved = embeddings.weight.requires_grad or self._tower.is_trained
        unmoved = [] if is_moved else _unmoved(layers[0])
        self._text = Matrices.of(_matrices(layers), unmoved).plus(_mixtures(policy))
        self._attention = sum(int(m.o_proj.in_features) for m in _parts(layers, "self_attn"))
        self._states = sum(_state_numbers(net) for net in recurrences(policy.model))
        self._head = Matrices.of([policy.model.lm_head])

    @property
    def tower_is_trained(self) -> bool:
        return self._tower.is_trained

    def forward(self, work: Work) -> int:
        """Return the FLOPs of a forward, its images included."""
        of_text = 2 * self._text.weights * work.tokens + 2 * self._head.weights * work.targets
        of_text += 4 * self._attention * visible_pairs(work.groups)
        of_text += 6 * self._states * work.tokens
        return of_text + sum(self._tower.forward(*grid) for grid in work.grids)

    def scoring(self, work: Work) -> int:
        """Return the FLOPs of log-probabilities alone: what the tower made of images is there."""
        return self.forward(Work(work.groups, ()))

    def training(self, work: Work) -> int:
        """Return the FLOPs of forward and backward; a frozen tower's features are there."""
        matrices = self._text.backward * work.tokens + self._head.backward * work.targets
        backward = 2 * matrices + 8 * self._attention * visible_pairs(work.groups)
        backward += 12 * self._states * work.tokens
        flops = self.scoring(work) + backward
        if self._tower.is_trained:
            flops += sum(self._tower.training(*grid) for grid in work.grids)
        return flops


class _Tower:
    """A vision tower: `blocks` and `patches` see every patch, `mergers` a square of them at once.

    Layers attend within an image, Qwen2.5-VL's but for `fullatt_block_indexes` within windows.
    """

    def __init__(self, config: Any, tower: Any) -> None:
        self._merged: int = config.spatial_merge_size**2
        self._patches = Matrices.of([tower.patch_embed.proj], [tower.patch_embed.proj])
        is_moved = tower.patch_embed.proj.weight.requires_grad
        self._blocks = Matrices.of(
            _matrices(tower.blocks), [] if is_moved else _unmoved(tower.blocks[0])
        )
        mergers = [tower.merger, *getattr(tower, "deepstack_merger_list", ())]
        self._mergers = Matrices.of(_matrices(mergers))
        self._width: int = self._patches.weights // tower.patch_embed.proj.weight[0].numel()
        self._num_layers: int = len(tower.blocks)
        self._num_whole = self._num_layers
        self._side: int = 0
        if getattr(config, "window_size", 0):
            self._num_whole = len(config.fullatt_block_indexes)
            self._side = config.window_size // config.patch_size
        self.is_trained = any(weight.requires_grad for weight in tower.parameters())

    def forward(self, height: int, width: int) -> int:
        """Return the FLOPs of an image of `height` x `width` patches."""
        patches = height * width
        of_all = self._patches.weights + self._blocks.weights
        matrices = of_all * patches + self._mergers.weights * patches // self._merged
        return 2 * matrices + 4 * self._width * self._pairs(height, width)

    def training(self, height: int, width: int) -> int:
        """Return the FLOPs of its forward and backward."""
        patches = height * width
        of_all = self._patches.backward + self._blocks.backward
        matrices = of_all * patches + self._mergers.backward * patches // self._merged
        backward = 2 * matrices + 8 * self._width * self._pairs(height, width)
        return self.forward(height, width) + backward

    def _pairs(self, height: int, width: int) -> int:
        """Count the pairs of patches that see each other, in all layers."""
        whole = self._num_whole * (height * width) ** 2
        if not self._side:
            return whole
        in_windows = _squares(height, self._side) * _squares(width, self._side)
        return whole + (self._num_layers - self._num_whole) * in_windows


def _squares(length: int, side: int) -> int:
    """Return the sum of squares of the pieces, of at most `side`, into which `length` is cut."""
    return length // side * side**2 + (length % side) ** 2


def _weight(module: nn.Module) -> nn.Parameter:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def _parts(layers: Iterable[Any], name: str) -> list[Any]:
    """List the submodules of this name; not every layer has one."""
    return [getattr(layer, name) for layer in layers if hasattr(layer, name)]


def _mixtures(policy: Policy) -> Iterator[tuple[int, bool]]:
    """Yield the weights of each router, and those of the experts that a token meets, whether or not
    they are trained."""
    for layer in policy.part("language_model").layers:  # type: ignore[union-attr]
        for mixture in layer.modules():
            if not hasattr(mixture, "experts"):
                continue
            router: Any = mixture.gate
            yield router.weight.numel(), router.weight.requires_grad
            for weight in mixture.experts.parameters():
                active = weight.numel() // router.num_experts * router.top_k
                yield active, weight.requires_grad


def _state_numbers(recurrence: Any) -> int:
    """Return the size of the state of one sequence."""
    return int(recurrence.num_v_heads * recurrence.head_k_dim * recurrence.head_v_dim)


def _matrices(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """List the matrices inside `modules`, those of adapters too, and convolutions along the row."""
    kinds = (nn.Linear, nn.Conv1d)
    return [m for module in modules for m in module.modules() if isinstance(m, kinds)]


def _unmoved(layer: nn.Module) -> list[nn.Module]:
    """List the matrices of a first layer whose input does not depend on anything trained."""
    norms = [w for name, w in layer.named_parameters() if "norm" in name]
    if any(weight.requires_grad for weight in norms):
        return []
    named = layer.named_modules()
    return [m for name, m in named if isinstance(m, nn.Linear) and _READS_STREAM.search(name)]
