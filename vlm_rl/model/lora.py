"""LoRA: small trained matrices beside the attention and MLP matrices of named parts, by peft.

W x becomes W x + (alpha / rank) B A x (https://arxiv.org/abs/2106.09685). W is frozen, only A and B
are trained, and B starts at 0, so that the first policy is the checkpoint. The named parts have
adapters on every matrix of attention and MLP, which comes nearest to full training at equal size
(https://arxiv.org/abs/2305.14314). The paper's dropout is left out: log-probabilities before and in
an update would come from two different draws, and their ratio would not start at 1.
"""

import json
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from vlm_rl.model import safe_archives
from vlm_rl.model.families import PARTS, Freezable, Part, family_of
from vlm_rl.model.weights import full, is_adapter

CONFIG = "adapter_config.json"
"""The file that makes a folder an adapter, by peft's convention."""


@dataclass(frozen=True)
class LoraSettings:
    """Adapters of rank `rank`, added at weight `alpha` / `rank`, in the parts named by `parts`.

    Everything else is frozen.
    """

    rank: int = 16
    alpha: int = 32
    parts: tuple[Part, ...] = ("language_model",)

    def __post_init__(self) -> None:
        for name in ("rank", "alpha"):
            if getattr(self, name) < 1:
                raise ValueError(f"policy.lora.{name} must be >= 1, got {getattr(self, name)}")
        named = set(self.parts)
        if not named or not named <= set(PARTS) or len(named) < len(self.parts):
            raise ValueError(
                f"policy.lora.parts must name {' or '.join(PARTS)}, or both once, got "
                f"{list(self.parts)}"
            )


def check_lora(lora: LoraSettings | None, freeze: Sequence[Freezable]) -> None:
    """Check, before any model is loaded, that `lora` can be trained. Raises ValueError."""
    if lora is None:
        return
    both = [part for part in lora.parts if part in freeze]
    if both:
        raise ValueError(
            f"policy.lora.parts and policy.freeze both name {both[0]}, whose adapters would not be "
            "trained; leave it out of one of them"
        )
    _require_peft("policy.lora")


def add_adapters(model: Any, lora: LoraSettings, *, base: str, seed: int) -> None:
    """Freeze `model`, loaded from `base`, and add adapters that are equal on every rank."""
    from peft import LoraConfig

    matrices = family_of(model.config).matrices
    targets = "|".join(matrices[part] for part in lora.parts)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.add_adapter(config)
    # loading needs the base, from whatever folder it starts in
    config.base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base


def has_adapters(model: nn.Module) -> bool:
    return any(is_adapter(name) for name, _ in model.named_parameters())


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Switch the adapters off inside."""
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "base_layer")]
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            # peft's own switch also sets requires_grad to False, which a sharding wrapper that
            # first sees the adapters now would keep
            layer._disable_adapters = True
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer._disable_adapters = was


def save_adapter(model: Any, folder: Path, *, write: bool = True) -> None:
    """Write only the adapters, for peft, transformers and vLLM.

    Sharded adapters are gathered: call it on every rank, with `write` on one.
    """
    # not with peft's own save: it asks the hub each time whether the vocabulary has changed
    from peft import get_peft_model_state_dict

    whole = {name: full(w) for name, w in model.state_dict().items() if is_adapter(name)}
    if not write:
        return
    weights = get_peft_model_state_dict(model, whole, save_embedding_layers=False)
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"base_model.model.{name}": w.contiguous() for name, w in weights.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (config,) = model.peft_config.values()
    config.save_pretrained(folder)


def base_of(path: str) -> str | None:
    """Return the checkpoint below the adapter in folder `path`; None if it is not an adapter.

    Raises ValueError for an adapter that cannot be used here.
    """
    file = Path(path) / CONFIG
    if not file.is_file():
        return None
    _require_peft(f"{path} is an adapter and")
    try:
        base = json.loads(file.read_text())["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{file} is not a description of an adapter: {error}") from error
    if not isinstance(base, str):
        raise ValueError(f"{file} names no base_model_name_or_path; put its checkpoint there")
    return base


def check_base(before: str | None, now: str | None) -> None:
    """Compare checksums of the weights below the adapters.

    None stands for a policy without adapters, and in `before` for an unknown checksum. Raises
    ValueError if they differ.
    """
    if before not in (None, now):
        raise ValueError(
            "the checkpoint holds only adapters, and policy.path now has other weights than when "
            "it was written; put those back, or start a new run"
        )


def merge_into(model: Any, folder: str) -> nn.Module:
    """Add the adapter in `folder` to the weights of `model`, its base.

    Raises ValueError for an adapter that does not fit it in every weight.
    """
    from peft import LoraConfig, PeftConfig, get_peft_model, set_peft_model_state_dict
    from peft.utils import load_peft_weights

    try:
        config = PeftConfig.from_pretrained(folder)
        if not isinstance(config, LoraConfig):
            raise ValueError(f"it is {config.peft_type}, only LoRA is supported")
        # the base may itself be a merged adapter
        config.base_model_name_or_path = model.name_or_path
        wrapped = get_peft_model(model, config)
        loaded = set_peft_model_state_dict(wrapped, load_peft_weights(folder, device="cpu"))
    except pickle.UnpicklingError as error:
        raise ValueError(safe_archives.refusal(Path(folder), error)) from error
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{folder} does not fit its base: {reason}") from error
    wrong = [*loaded.unexpected_keys, *filter(is_adapter, loaded.missing_keys)]
    if wrong:
        raise ValueError(
            f"{folder} does not fit its base: {len(wrong)} weights are on one side only, the first "
            f"of them {wrong[0]}"
        )
    merged: nn.Module = wrapped.merge_and_unload()
    return merged.requires_grad_(True)  # peft froze it


def _require_peft(what: str) -> None:
    if find_spec("peft") is None:
        raise ValueError(
            f"{what} needs peft, which is not installed: pip install -c constraints.txt "
            "-e '.[lora]'"
        )
