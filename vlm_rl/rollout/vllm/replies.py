"""What a vLLM server may answer, field by field; nothing else of an answer is read.

Types are strict: "5", 5.0 and true are no token. A server that is not vLLM, or another version of
it, is so named at its first answer and not by an error far from it.
"""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Reply(BaseModel):
    """An answer; fields that are not named here are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)


class ChosenToken(Reply):
    """A sampled token; its id stands in `CompletionChoice.token_ids`."""

    logprob: float


class ChosenTokens(Reply):
    """The log-probabilities of one completion."""

    content: list[ChosenToken] | None = None


class CompletionChoice(Reply):
    """One completion."""

    token_ids: list[int] | None
    logprobs: ChosenTokens | None
    finish_reason: str | None


class Generated(Reply):
    """The answer to one request."""

    prompt_token_ids: list[int] | None
    choices: list[CompletionChoice]


class ServedModel(Reply):
    """The settings of vLLM's model that decide what is sampled and recorded."""

    model_config = ConfigDict(protected_namespaces=())

    logprobs_mode: str
    generation_config: str | None
    dtype: str
    max_model_len: int


class WeightTransfer(Reply):
    """How vLLM takes weights."""

    backend: str | None = None


class ServedConfig(Reply):
    """vLLM's configuration; its field `model_config` has a name that pydantic keeps for itself."""

    served: Annotated[ServedModel, Field(alias="model_config")]
    weight_transfer_config: WeightTransfer | None


class ServerInfo(Reply):
    """The answer of `server_info`."""

    vllm_config: ServedConfig


class WorldSize(Reply):
    """The number of vLLM's workers."""

    world_size: Annotated[int, Field(ge=1, le=65536)]


class Emptied(Reply):
    """Whether a cache is empty now."""

    success: bool


Answered = TypeVar("Answered", bound=Reply)


def read(kind: type[Answered], body: bytes) -> Answered:
    """Read `body` as JSON of this kind. Raises ValueError naming the first field that is wrong."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise ValueError(f"must be JSON, got {shown(body)!r}") from None
        field = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise ValueError(f"lacks the field {field}") from None
        rule = first["msg"][0].lower() + first["msg"][1:]
        place = f"has a wrong {field}" if field else "is wrong"
        raise ValueError(f"{place}: {rule}, got {shown(repr(first['input']))}") from None


def shown(text: str | bytes, most: int = 100) -> str:
    """Return the beginning of foreign text on one line, without what would steer a terminal."""
    if isinstance(text, bytes):
        text = text[: 4 * most].decode(errors="replace")
    plain = "".join(c if c.isprintable() else " " for c in text[: 4 * most])
    line = " ".join(plain.split())
    return line if len(line) <= most else f"{line[:most]}..."
