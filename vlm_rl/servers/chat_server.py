"""A server of OpenAI's chat completions, asked with a limit for all that it may do."""

import base64
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from vlm_rl.data.image_files import web_file
from vlm_rl.processes.background import Returned, begun

MOST_BYTES = 32 * 2**20
"""Of one reply."""
_RETRIED = (408, 409, 429)  # and all from 500 on
_REFUSED = (400, 413, 422)
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 8.0
_LONGEST_WISH_S = 60.0  # that a server may have, in Retry-After


class RequestRefused(ValueError):
    """The server says that the request is at fault."""


class ServerFailed(RuntimeError):
    """The server did not answer, or not as it must, however often it was asked."""


@dataclass(frozen=True)
class ChatReply:
    """What a model said. Counts of tokens are None if the server does not report them."""

    text: str
    finish_reason: str | None
    tokens_in: int | None
    tokens_out: int | None
    retries: int


class ChatServer:
    """A server of OpenAI's chat completions, such as vLLM, at `url` (http://127.0.0.1:8000/v1).

    Takes `concurrent` requests at a time. Each must be answered whole within `timeout_s`. One that
    fails by status 408, 409, 429 or above 499, by its connection or by an answer that is none, is
    retried up to `max_retries` times after a pause, which doubles from 0.5 s to 8 s, or is what the
    server wishes, up to 60 s. A server that needs a key gets the one in the environment variable
    `key_variable`. The server has its own chat template and image limits.
    """

    def __init__(
        self,
        url: str,
        *,
        concurrent: int = 32,
        timeout_s: float = 600.0,
        max_retries: int = 3,
        key_variable: str = "OPENAI_API_KEY",
    ) -> None:
        import openai  # takes long, and most runs ask no server

        for name, value in {"concurrent": concurrent, "timeout_s": timeout_s}.items():
            if not value > 0:
                raise ValueError(f"ChatServer.{name}={value} must be above 0")
        if max_retries < 0:
            raise ValueError(f"ChatServer.max_retries={max_retries} must be 0 or more")
        self.url = url
        self.concurrent = concurrent
        self.timeout_s = timeout_s
        self.max_retries = max_retries
        self._key = os.environ.get(key_variable, "none")
        self._client = openai.OpenAI(
            base_url=url, api_key=self._key, timeout=timeout_s, max_retries=0
        )

    def model_name(self) -> str:
        """Return the one model that it serves. Raises ValueError if none answers, or several."""
        import openai

        try:
            names = [model.id for model in self._client.models.list()]
        except openai.OpenAIError as error:
            raise ValueError(f"no server answers at {self.url}: {error}; start it") from error
        if len(names) != 1:
            raise ValueError(f"{self.url} serves {', '.join(names)}; name one of them by --model")
        return names[0]

    def ask(self, request: dict[str, Any]) -> ChatReply:
        """Request one chat completion; any thread may. Raises RequestRefused and ServerFailed."""
        for attempt in range(self.max_retries + 1):
            try:
                answer = _within(self.timeout_s, lambda stop: self._exchange(request, stop))
                return _reply(answer, attempt)
            except _Transient as failure:
                if attempt == self.max_retries:
                    tries = f" ({attempt + 1} tries)" if attempt else ""
                    raise ServerFailed(f"{self._safe(failure)}{tries}") from None
                time.sleep(failure.pause_s or min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S))
        raise AssertionError("the last try returns or raises")

    def _exchange(self, request: dict[str, Any], deadline: float) -> bytes:
        """Return the body of an answer of status 200."""
        import openai

        received = bytearray()
        completions = self._client.chat.completions.with_streaming_response
        try:
            with completions.create(**request) as response:
                for piece in response.iter_bytes():
                    received += piece
                    if len(received) > MOST_BYTES or time.monotonic() > deadline:
                        raise _Transient(f"no whole answer of at most {MOST_BYTES} bytes")
        except openai.APIStatusError as error:
            status = error.status_code
            if status in _REFUSED:
                raise RequestRefused(self._safe(error)) from None
            if status in _RETRIED or status >= 500:
                raise _Transient(self._safe(error), _wish(error.response.headers)) from None
            raise ServerFailed(self._safe(error)) from None
        except openai.OpenAIError as error:
            raise _Transient(self._safe(error)) from None
        except _Transient:
            raise
        except Exception as error:  # openai reads a body by httpx or httpx2, whose errors differ
            raise _Transient(f"Connection error: {type(error).__name__}") from None
        return bytes(received)

    def _safe(self, error: Exception) -> str:
        """Return what an error says, without the key, which a server may repeat."""
        text = str(error)[:500]
        return text if self._key == "none" else text.replace(self._key, "***")


def legal(text: str) -> str:
    """Replace half characters, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def data_url(source: bytes | Path) -> str:
    """Return an image as a request holds it. Raises BadImage."""
    kind, content = web_file(source)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}"


class _Transient(Exception):
    """A failure that another try may not meet."""

    def __init__(self, reason: str, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class _Message(BaseModel):
    content: str | None = None


class _Said(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)


class _Answer(BaseModel):
    choices: list[_Said] = Field(min_length=1)
    usage: _Usage | None = None


def _reply(body: bytes, retries: int) -> ChatReply:
    try:
        answer = _Answer.model_validate_json(body)
    except ValidationError as error:
        raise _Transient(f"an answer that is no chat completion: {body[:80]!r}") from error
    said, usage = answer.choices[0], answer.usage
    return ChatReply(
        text=legal(said.message.content or ""),
        finish_reason=said.finish_reason,
        tokens_in=None if usage is None else usage.prompt_tokens,
        tokens_out=None if usage is None else usage.completion_tokens,
        retries=retries,
    )


def _within(limit_s: float, call: Callable[[float], Returned]) -> Returned:
    """Return `call(deadline)`, in a thread that is left behind if it takes longer.

    A limit of the socket starts anew with every byte, so a server that sends one now and then would
    hold the run forever.
    """
    deadline = time.monotonic() + limit_s
    try:
        return begun(lambda: call(deadline)).result(limit_s)
    except TimeoutError:
        raise _Transient(f"no whole answer within {limit_s:g} s") from None


def _wish(headers: Any) -> float:
    """Return the seconds that a server asks to wait, 0 if it does not or makes no sense."""
    try:
        seconds = float(headers.get("retry-after", 0))
    except ValueError:
        return 0.0
    return min(seconds, _LONGEST_WISH_S) if seconds > 0 and math.isfinite(seconds) else 0.0
