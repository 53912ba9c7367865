"""The secret between a run and its vLLM server, and the gate of the server that asks for it.

vLLM's own keys guard generation only, not the endpoints that replace the weights. So this
middleware stands before all of them. The secret travels in the environment: a command line can be
read by every user of the machine.
"""

import hmac
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

VARIABLE = "VLM_RL_SERVER_TOKEN"
"""The environment variable of both sides."""

LEAST_CHARACTERS = 16

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def new_token() -> str:
    """Draw a secret for a server that the run starts itself."""
    return secrets.token_hex(32)


def shared_token() -> str:
    """Return the secret that the user has set for both sides. Raises ValueError if it is unfit."""
    token = os.environ.get(VARIABLE, "")
    if len(token) < LEAST_CHARACTERS or not (token.isascii() and token.isprintable()):
        state = f"must be {LEAST_CHARACTERS} or more ASCII characters" if token else "is not set"
        raise ValueError(
            f"{VARIABLE} {state}: a server and its run need a secret in common; set the same in "
            f"both environments, such as export {VARIABLE}=$(openssl rand -hex 32)"
        )
    return token


def header(token: str) -> dict[str, str]:
    """Return the header that opens the gate."""
    return {"Authorization": f"Bearer {token}"}


class TokenGate:
    """Answer 401 to every request without the secret, but for the question whether it lives.

    The server loads it by `--middleware`. It does not start without a secret.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._wanted = header(shared_token())["Authorization"].encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope.get("path") == "/health" or self._opens(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            start = {"type": "http.response.start", "status": 401, "headers": []}
            await send(start)
            await send({"type": "http.response.body", "body": f"needs {VARIABLE}".encode()})
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _opens(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._wanted)
