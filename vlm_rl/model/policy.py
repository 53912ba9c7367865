"""A Qwen-VL checkpoint as a policy: per-token log-probabilities of completions.

One path for policy, old and reference log-probabilities: the packed, group-shared forward
(`vlm_rl.model.packing`) into `vlm_rl.model.logprobs`, both inside `Policy.forward`, so that a
sharding wrapper around the policy sees a single root call.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText

from vlm_rl.model.logprobs import TokenStats, linear_logprobs
from vlm_rl.model.lora import (
    LoraSettings,
    Part,
    adapters_off,
    add_adapters,
    base_of,
    check_lora,
    has_adapters,
    merge_into,
    save_adapter,
)
from vlm_rl.model.packing import Packed, pack, shared_prefix_mask
from vlm_rl.records import Rows

MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


class Policy(nn.Module):
    """A Qwen-VL model and what training needs of it.

    `model` is the transformers model; its vision placeholders are banned from the softmax here as
    they are banned from sampling, so that both sides speak of the same distribution.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        config: Any = model.config
        placeholders = (
            config.image_token_id,
            config.video_token_id,
            config.vision_start_token_id,
            config.vision_end_token_id,
        )
        self.register_buffer("banned_ids", torch.tensor(placeholders), persistent=False)
        self.banned_ids: Tensor

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        *,
        freeze: Sequence[Part] = (),
        gradient_checkpointing: bool = False,
        lora: LoraSettings | None = None,
        seed: int = 0,
        empty: bool = False,
    ) -> "Policy":
        """Load float32 weights from a checkpoint folder or hub id and freeze parts by name.

        The folder of a LoRA adapter gives its base with the adapter added to the weights. With
        `lora` only new adapters are trained, which start as `seed` says. `empty` gives the same
        policy without weights, on the device meta, for a process that is handed its share of them.
        Raises ValueError for a checkpoint of another family, a folder that is none, and weights
        that can not be read or are not all there.
        """
        check_lora(lora, freeze)
        config = check_checkpoint(path)
        policy = cls(empty_model(config) if empty else _load_model(path))
        if lora is not None:
            add_adapters(policy.model, lora, base=path, seed=seed)
        for part in freeze:
            policy.part(part).requires_grad_(False)
            if part == "language_model":  # its embeddings may be tied to the head, or not
                policy.model.lm_head.requires_grad_(False)
        if gradient_checkpointing:
            policy.model.gradient_checkpointing_enable({"use_reentrant": False})
            # only the reentrant kind needs it; a frozen tower would be gone through backwards
            policy.model.disable_input_require_grads()
        return policy.train()

    def part(self, name: Part) -> nn.Module:
        """The submodule behind a name used by `freeze` and by the optimizer's settings."""
        modules = {
            "vision_tower": self.model.model.visual,
            "language_model": self.model.model.language_model,
        }
        if name not in modules:
            raise ValueError(f"no part of the policy is called {name!r}; there are {list(modules)}")
        part: nn.Module = modules[name]
        return part

    @property
    def device(self) -> torch.device:
        return self.banned_ids.device

    def forward(self, packed: Packed, temperature: float, with_entropy: bool) -> TokenStats:
        """Log-probabilities (and entropies) of the N packed completion tokens, each [N]."""
        device = self.device
        segment, prompt_of = packed.segment.to(device), packed.prompt_of.to(device)
        vision: dict[str, Tensor] = {}
        if packed.pixel_values is not None and packed.grid_thw is not None:
            vision["pixel_values"] = packed.pixel_values.to(device)
            vision["image_grid_thw"] = packed.grid_thw.to(device)
        hidden = self.model.model(
            input_ids=packed.token_ids.to(device),
            position_ids=packed.positions.to(device),
            attention_mask=shared_prefix_mask(prompt_of, segment),
            use_cache=False,  # a single pass: it would only be built and thrown away
            **vision,
        ).last_hidden_state[0]
        return linear_logprobs(
            hidden[packed.predictors.to(device)],
            self.model.lm_head.weight,
            packed.targets.to(device),
            temperature=temperature,
            banned_ids=self.banned_ids,
            with_entropy=with_entropy,
        )

    def logprobs(self, rows: Rows, *, temperature: float, with_entropy: bool = False) -> TokenStats:
        """Per-token statistics of the completions of `rows`, each [B, T], 0 in the padding."""
        stats = self(pack(rows), temperature, with_entropy)
        mask = rows.completion_mask.to(self.device)

        def unpack(values: Tensor) -> Tensor:
            return values.new_zeros(mask.shape).masked_scatter(mask, values)

        entropy = None if stats.entropy is None else unpack(stats.entropy)
        return TokenStats(unpack(stats.logprobs), entropy)

    @property
    def has_adapters(self) -> bool:
        """Whether LoRA adapters are all that is trained."""
        return has_adapters(self.model)

    def reference(self, *, share: bool = True) -> "Policy | AdaptersOff":
        """What the policy is now, before anything is learned, to hold it to."""
        return AdaptersOff(self) if self.has_adapters else self.frozen_copy(share=share)

    def empty_copy(self) -> "Policy":
        """A reference that has its weights still to come."""
        nothing = {
            id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in self.parameters()
        }
        return copy.deepcopy(self, memo=dict(nothing)).requires_grad_(False).eval()

    def frozen_copy(self, *, share: bool = True) -> "Policy":
        """A reference: the same weights, without gradients. Frozen parts are shared, not copied,
        unless they may not be, as where those of the policy will be cut."""
        shared = {id(p): p for p in self.parameters() if share and not p.requires_grad}
        reference = copy.deepcopy(self, memo=dict(shared))
        return reference.requires_grad_(False).eval()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No gradients and evaluation mode inside; the mode from before afterwards."""
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(was_training)

    def save(self, folder: Path) -> None:
        """Write what `from_pretrained` loads: weights and configuration as they are, or, of a
        policy with adapters, these alone and the name of their base."""
        if self.has_adapters:
            save_adapter(self.model, folder)
        else:
            self.model.save_pretrained(folder)


class AdaptersOff:
    """A reference without a weight of its own: the policy without its adapters."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def logprobs(self, rows: Rows, *, temperature: float) -> TokenStats:
        """Those of the base, without gradients."""
        with torch.no_grad(), adapters_off(self._policy.model):
            return self._policy.logprobs(rows, temperature=temperature)


def check_checkpoint(path: str) -> Any:
    """Refuse what is not a Qwen-VL checkpoint, before anything large is loaded; its model's
    configuration. Of an adapter it is that of the base."""
    folder = Path(path)
    no_hub_id = path.startswith((".", "/", "~")) or path.count("/") > 1
    if not folder.is_dir() and (no_hub_id or folder.exists()):
        raise ValueError(f"{path} is not a folder; give a checkpoint folder or a hub id")
    base = base_of(path)
    if base is not None:
        try:
            return check_checkpoint(base)
        except ValueError as error:
            raise ValueError(f"{path} is an adapter, but of its base: {error}") from error
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ValueError(f"{path} has no config.json, so it is no checkpoint")
    try:
        config = AutoConfig.from_pretrained(path)
    except _UNREADABLE as error:
        raise ValueError(_unreadable(path, error)) from error
    if config.model_type not in MODEL_TYPES:
        raise ValueError(
            f"{path} holds a {config.model_type!r} model; supported are {', '.join(MODEL_TYPES)}"
        )
    return config


def empty_model(config: Any) -> Any:
    """A model of this configuration without weights, on the device meta."""
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, dtype=torch.float32)


def _load_model(path: str) -> nn.Module:
    """The model with every weight from the checkpoint.

    transformers gives random values to what it does not find there, with no more than a warning.
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
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} weights, the first of them {missing[0]}")
    if info["mismatched_keys"]:
        name, found, wanted = min(info["mismatched_keys"])
        raise ValueError(
            f"{path}: weight {name} has shape {list(found)} where config.json asks for "
            f"{list(wanted)}"
        )
    loaded: nn.Module = model
    return loaded


_UNREADABLE = (OSError, ValueError, TypeError, StrictDataclassError, SafetensorError)


def _unreadable(path: str, error: Exception) -> str:
    reason = str(error).partition("\n")[0].rstrip(":")
    return f"{path} is no checkpoint that transformers can read: {reason}"
