"""The tokens that end a completion, the same in every engine.

A checkpoint says in several places what ends an answer. If one of them is not listened to, a policy
that was trained to end with it goes on up to the limit, and lengths grow for a reason that no
objective has (arXiv:2609.20511). So each that any place declares ends a completion, and the two of
Qwen's chat do; the token is part of the completion.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig, PretrainedConfig

OF_CHATS = ("<|im_end|>", "<|endoftext|>")
_MISSING = (OSError, ValueError, TypeError)  # what a file that is not there or broken raises


@dataclass(frozen=True)
class StopTokens:
    """`ids` in order; `declared` are those of each place that says something."""

    ids: tuple[int, ...]
    declared: Mapping[str, frozenset[int]]

    @classmethod
    def of(cls, path: str, tokenizer: Any) -> "StopTokens":
        """Read what a checkpoint declares. Raises ValueError for ids that its tokenizer lacks."""
        config = _read(lambda: PretrainedConfig.get_config_dict(path)[0])
        said = {
            "config.json": _ids(config) | _ids(config.get("text_config")),
            "generation_config.json": _ids(
                _read(lambda: GenerationConfig.from_pretrained(path).to_dict())
            ),
            "the tokenizer": _ids({"eos_token_id": tokenizer.eos_token_id}),
        }
        declared = {place: ids for place, ids in said.items() if ids}
        for place, ids in declared.items():
            if unknown := sorted(one for one in ids if not 0 <= one < len(tokenizer)):
                raise ValueError(
                    f"{path}: {place} declares the end-of-sequence id {unknown[0]}, which is no "
                    f"token of its {len(tokenizer)}; mend its eos_token_id"
                )
        chat = tokenizer.convert_tokens_to_ids(list(OF_CHATS))
        others = sorted({one for ids in declared.values() for one in ids})
        return cls(tuple(dict.fromkeys([*chat, *others])), declared)

    def line(self, tokenizer: Any) -> str:
        """Say what ends a completion, and who declares what if that differs."""

        def named(ids: Any) -> str:
            tokens = tokenizer.convert_ids_to_tokens([*ids])
            return ", ".join(f"{token} ({one})" for one, token in zip(ids, tokens, strict=True))

        line = f"completions end with {named(self.ids)}"
        if len(set(self.declared.values())) < 2:
            return line
        places = (f"{place} {named(sorted(ids))}" for place, ids in self.declared.items())
        return f"{line}; the checkpoint's own declarations differ: {'; '.join(places)}"


def _read(read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return read()
    except _MISSING:
        return {}


def _ids(config: object) -> frozenset[int]:
    said = config.get("eos_token_id") if isinstance(config, Mapping) else None
    listed = said if isinstance(said, list) else [said]
    return frozenset(one for one in listed if isinstance(one, int) and not isinstance(one, bool))
