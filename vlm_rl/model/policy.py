"""A Qwen-VL checkpoint as a policy: per-token log-probabilities of completions.

One path for policy, old and reference log-probabilities: the packed, group-shared forward
(`vlm_rl.model.packing`) into `vlm_rl.model.logprobs`, both inside `Policy.forward`, so that a
sharding wrapper around the policy sees a single root call.
"""

import copy
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText

from vlm_rl.model import safe_archives
from vlm_rl.model.attention import Segments, use_segments
from vlm_rl.model.experts import check_experts, use_experts
from vlm_rl.model.families import (
    PARTS,
    Freezable,
    Part,
    family_of,
    placeholder_ids,
    recurrences,
)
from vlm_rl.model.logprobs import TokenStats, linear_logprobs
from vlm_rl.model.lora import (
    LoraSettings,
    add_adapters,
    base_of,
    check_lora,
    has_adapters,
    merge_into,
    save_adapter,
)
from vlm_rl.model.packing import Packed, pack
from vlm_rl.model.routing import Routing, listen
from vlm_rl.model.saving import DiskPrecision, check_layout, dtype_of, save_model
from vlm_rl.model.shards import Shards
from vlm_rl.model.tied_head import check_head, check_tie
from vlm_rl.model.vision import Features, Images, KeptFeatures, features_of
from vlm_rl.records import Rows


class Policy(nn.Module):
    """A Qwen-VL model and what training needs of it.

    `model` is the transformers model. Its vision placeholders are banned from the softmax here, as
    they are banned from sampling, so that trainer and engine have the same distribution. `shards`
    says how the weights lie on this rank; a strategy that shards them replaces it. `num_routers`
    counts the layers with experts; `replays_experts`: these are the engine's, where it names them.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        use_segments(model, recurrences(model))
        self.num_routers = 0
        self.replays_experts = False
        routers = family_of(model.config).routers
        if routers is not None:
            use_experts(model)
            self.num_routers = listen(self.part("language_model"), routers)
        self.shards = Shards()
        self.source_dtype = torch.float32
        banned_ids = torch.tensor(placeholder_ids(model.config))
        self.register_buffer("banned_ids", banned_ids, persistent=False)
        self.banned_ids: Tensor

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        *,
        freeze: Sequence[Freezable] = (),
        gradient_checkpointing: bool = False,
        lora: LoraSettings | None = None,
        router_replay: bool = False,
        seed: int = 0,
        empty: bool = False,
    ) -> "Policy":
        """Load float32 weights from a checkpoint folder or hub id and freeze parts by name.

        The folder of a LoRA adapter gives its base with the adapter added to the weights. With
        `lora` only new adapters are trained; `seed` decides how they start. `empty` gives the same
        policy without weights, on the meta device, for a rank that receives its shard later. With
        `router_replay` the experts of a mixture are those that the engine chose. Raises
        ValueError for a checkpoint of another family, a folder that is not a checkpoint, and
        weights that cannot be read or are missing.
        """
        check_lora(lora, freeze)
        config = check_checkpoint(path)
        wanted = {"policy.freeze=[router]": "router" in freeze}
        check_experts(config, wanted | {"policy.router_replay": router_replay})
        policy = cls(empty_model(config) if empty else _load_model(path))
        policy.source_dtype = dtype_of(config)
        policy.replays_experts = router_replay
        if lora is not None:
            add_adapters(policy.model, lora, base=path, seed=seed)
        for part in freeze:
            for module in policy.routers() if part == "router" else [policy.part(part)]:
                module.requires_grad_(False)
            if part == "language_model":  # its embeddings may be tied to the head, or not
                policy.model.lm_head.requires_grad_(False)
        if gradient_checkpointing:
            policy.model.gradient_checkpointing_enable({"use_reentrant": False})
            # only the reentrant kind needs it; it would make backward cross a frozen tower
            policy.model.disable_input_require_grads()
        return policy.train()

    def part(self, name: Part) -> nn.Module:
        """Return the submodule behind a name used by `freeze` and by the optimizer's settings."""
        if name not in PARTS:
            raise ValueError(f"no part of the policy is called {name!r}; there are {list(PARTS)}")
        part: nn.Module = self.model.get_submodule(PARTS[name])
        return part

    def routers(self) -> list[nn.Module]:
        """Return the routers of a mixture of experts."""
        return [module for module in self.modules() if hasattr(module, "listener")]

    @property
    def device(self) -> torch.device:
        return self.banned_ids.device

    def forward(
        self,
        inputs: Packed | Images,
        temperature: float = 1.0,
        with_entropy: bool = False,
        kept: KeptFeatures | None = None,
        with_balance: bool = False,
    ) -> TokenStats | list[Features]:
        """Run the whole policy, or its vision tower alone; see `token_stats` and `encode`.

        One root call for both: a strategy that shards the weights gathers them around it.
        """
        if isinstance(inputs, Images):
            return features_of(self.model, Images(*(part.to(self.device) for part in inputs)))
        return self._token_stats(inputs, temperature, with_entropy, kept, with_balance)

    def encode(self, images: Images) -> list[Features]:
        """Return what the vision tower makes of each image."""
        features: list[Features] = self(images)
        return features

    def token_stats(
        self,
        packed: Packed,
        temperature: float,
        with_entropy: bool,
        kept: KeptFeatures | None = None,
        with_balance: bool = False,
    ) -> TokenStats:
        """Return log-probabilities (and entropies) of the N packed completion tokens, each [N].

        The features of images come from `kept`, or from the vision tower with their graph.
        """
        stats: TokenStats = self(packed, temperature, with_entropy, kept, with_balance)
        return stats

    def _token_stats(
        self,
        packed: Packed,
        temperature: float,
        with_entropy: bool,
        kept: KeptFeatures | None,
        with_balance: bool,
    ) -> TokenStats:
        device = self.device
        routing = self._routing(packed, with_balance) if self.num_routers else None
        hidden = self.model.model(
            input_ids=packed.token_ids.to(device),
            position_ids=packed.positions.to(device),
            # transformers makes no mask where it is given one; nobody reads this
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
            segments=Segments(packed.groups, device),
            routing=routing,
            use_cache=False,  # one pass needs none
            mm_encoder_outputs=self._image_outputs(packed, kept),
        ).last_hidden_state[0]
        stats = linear_logprobs(
            hidden[packed.predictors.to(device)],
            self.model.lm_head.weight,
            packed.targets.to(device),
            temperature=temperature,
            banned_ids=self.banned_ids,
            with_entropy=with_entropy,
        )
        return stats if routing is None else stats._replace(routing=routing.stats())

    def _routing(self, packed: Packed, with_balance: bool) -> Routing:
        given = None if packed.experts is None else packed.experts.to(self.device)
        return Routing(
            packed.predictors.to(self.device),
            given,
            replays=self.replays_experts,
            with_balance=with_balance,
        )

    def _image_outputs(self, packed: Packed, kept: KeptFeatures | None) -> dict[str, Any]:
        """Return the features of all images of a row, as transformers takes them."""
        if not packed.images:
            return {}
        if kept is not None:
            features = [image.to(self.device) for image in kept.of(packed.image_keys)]
        else:
            pixels, grids = zip(*packed.images.values(), strict=True)
            images = Images(torch.cat(pixels).to(self.device), torch.cat(grids).to(self.device))
            by_key = dict(zip(packed.images, features_of(self.model, images), strict=True))
            features = [by_key[key] for key in packed.image_keys]
        layers = [list(layer) for layer in zip(*(image.deep for image in features), strict=True)]
        tokens = [image.tokens for image in features]
        return {"image": SimpleNamespace(pooler_output=tokens, deepstack_features=layers)}

    def logprobs(
        self,
        rows: Rows,
        *,
        temperature: float,
        with_entropy: bool = False,
        kept: KeptFeatures | None = None,
        with_balance: bool = False,
    ) -> TokenStats:
        """Return statistics per completion token of `rows`, each [B, T], 0 in the padding.

        Those of routers, in full `with_balance`, stay as they are packed, in the order of the mask.
        """
        stats = self.token_stats(pack(rows), temperature, with_entropy, kept, with_balance)
        mask = rows.completion_mask.to(self.device)

        def unpack(values: Tensor) -> Tensor:
            return values.new_zeros(mask.shape).masked_scatter(mask, values)

        entropy = None if stats.entropy is None else unpack(stats.entropy)
        return TokenStats(unpack(stats.logprobs), entropy, stats.routing)

    @property
    def has_frozen_tower(self) -> bool:
        """Return whether no weight of the vision tower is trained."""
        return not any(p.requires_grad for p in self.part("vision_tower").parameters())

    @property
    def vocab_size(self) -> int:
        """Return V, the number of tokens that there are."""
        return int(self.model.config.get_text_config().vocab_size)

    @property
    def has_adapters(self) -> bool:
        """Return whether LoRA adapters are all that is trained."""
        return has_adapters(self.model)

    def empty_copy(self) -> "Policy":
        """Return a frozen copy without weights, on the meta device."""
        empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in self.parameters()}
        return copy.deepcopy(self, memo=dict(empty)).requires_grad_(False).eval()

    def frozen_copy(self, *, share: bool = True) -> "Policy":
        """Return the same weights without gradients, in evaluation mode.

        With `share`, frozen parts are shared and not copied. Do not share weights that a strategy
        will shard.
        """
        shared = {id(p): p for p in self.parameters() if share and not p.requires_grad}
        reference = copy.deepcopy(self, memo=dict(shared))
        return reference.requires_grad_(False).eval()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Switch to evaluation mode without gradients inside, and restore the mode afterwards."""
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(was_training)

    def save(self, folder: Path, *, precision: DiskPrecision = "source") -> None:
        """Write what `from_pretrained` loads: weights and configuration.

        Of a policy with adapters, write only the adapters and the name of their base.
        """
        if self.has_adapters:
            save_adapter(self.model, folder)
        else:
            save_model(self.model, folder, source=self.source_dtype, precision=precision)


def check_checkpoint(path: str) -> Any:
    """Return the configuration of a checkpoint, of an adapter that of its base.

    Raises ValueError for what is not a checkpoint of a supported family, before anything large is
    loaded.
    """
    folder = Path(path)
    no_hub_id = path.startswith((".", "/", "~")) or path.count("/") > 1
    if not folder.is_dir() and (no_hub_id or folder.exists()):
        raise ValueError(f"{path} is not a folder; give a checkpoint folder or a hub id")
    base = base_of(path)
    if base is not None:
        _refuse_circle(path)
        try:
            return check_checkpoint(base)
        except ValueError as error:
            raise ValueError(
                f"{path} is an adapter, and its base cannot be used: {error}"
            ) from error
    if folder.is_dir() and not (folder / "config.json").is_file():
        inner = (folder / place for place in ("hf", "checkpoints/best/hf"))
        instead = next((f"; give {place}" for place in inner if place.is_dir()), "")
        raise ValueError(f"{path} has no config.json, so it is not a checkpoint{instead}")
    safe_archives.check_index(folder)
    try:
        config = AutoConfig.from_pretrained(path)
    except _UNREADABLE as error:
        raise ValueError(_unreadable(path, error)) from error
    family_of(config)
    check_layout(path, config)
    # transformers ties by the outer one, vLLM by the one of the text
    config.get_text_config().tie_word_embeddings = config.tie_word_embeddings
    return config


def _refuse_circle(path: str) -> None:
    """Refuse adapters that are, one on the other, their own base."""
    below, seen = path, {os.path.realpath(path)}
    while (base := base_of(below)) is not None:
        if os.path.realpath(base) in seen:
            raise ValueError(f"{path} is an adapter whose base is, in the end, itself: {base}")
        seen.add(os.path.realpath(base))
        below = base


def empty_model(config: Any) -> Any:
    """Build a model of this configuration without weights, on the meta device."""
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, dtype=torch.float32)


def _load_model(path: str) -> nn.Module:
    """Load a model with every weight from the checkpoint.

    transformers would give random values to missing weights, with only a warning.
    """
    base = base_of(path)
    if base is not None:
        return merge_into(_load_model(base), path)
    try:
        model, info = AutoModelForImageTextToText.from_pretrained(
            path,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # reported below, with the name of the weight
            output_loading_info=True,
        )
    except _UNREADABLE as error:
        raise ValueError(_unreadable(path, error)) from error
    missing = sorted(info["missing_keys"])
    check_head(path, missing)
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} weights, the first of them {missing[0]}")
    if info["mismatched_keys"]:
        name, shape, expected = min(info["mismatched_keys"])
        raise ValueError(
            f"{path}: weight {name} has shape {list(shape)}, but config.json asks for "
            f"{list(expected)}"
        )
    check_tie(path, model)
    loaded: nn.Module = model
    return loaded


_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    StrictDataclassError,
    SafetensorError,
    pickle.UnpicklingError,
)


def _unreadable(path: str, error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):
        return safe_archives.refusal(Path(path), error)
    reason = str(error).partition("\n")[0].rstrip(":")
    return f"{path} is not a checkpoint that transformers can read: {reason}"
