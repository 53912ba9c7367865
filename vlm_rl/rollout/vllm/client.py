"""JSON to and from a vLLM server, its weight-transfer API included.

The server may be anything that listens there. So an answer has a limit of size and of time, is
never redirected, and is read by its kind in `replies`.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from json import loads
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from vlm_rl.processes.background import Returned, begun
from vlm_rl.processes.stopwatch import Stopwatch
from vlm_rl.rollout.faults import WEIGHT_STREAM, EngineError, EngineFault, EngineMismatch, refusal
from vlm_rl.rollout.vllm import gate
from vlm_rl.rollout.vllm.replies import Answered, read, shown

MOST_BYTES = 64 << 20
"""Of an answer whose size nothing else bounds; the metrics and settings of vLLM are below 1 MiB."""

PIECE = 1 << 16
PROBE_S = 5.0
"""How long a question whether the server lives may take."""


class Http:
    """A server at `base`, which asks for `token`.

    An answer must be whole after `timeout_s`. Raises EngineFault if it is not, or is not what it
    must be; EngineMismatch for what the server says of the weight stream, and if asking again would
    not help.
    """

    def __init__(self, base: str, timeout_s: float, token: str = "") -> None:
        self.base = base
        self._timeout_s = timeout_s
        self._probe_s = min(PROBE_S, timeout_s)
        self._token = token

    def hurried(self, timeout_s: float) -> "Http":
        """Return the same server with another limit of time."""
        return Http(self.base, timeout_s, self._token)

    def healthy(self) -> str | None:
        """Return why the server is not ready yet, None if it is."""
        try:
            status, body = self._exchange("GET", "health", None, self._probe_s)
        except EngineFault as error:
            return str(error)
        if status == 200:
            return None
        return f"{self._named('health')} must answer status 200, got {status}: {shown(body)}"

    def tokens(self) -> float:
        """Count the tokens that the server has read and written so far; -1 if it does not say."""
        counters = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
        try:
            status, body = self._exchange("GET", "metrics", None, self._probe_s)
            lines = body.decode(errors="replace").splitlines() if status == 200 else []
            return sum(float(line.split()[-1]) for line in lines if line.startswith(counters))
        except (EngineError, ValueError):
            return -1.0

    def get(self, path: str, kind: type[Answered], *, needed: bool = False) -> Answered:
        """Get an answer. With `needed`, a server that lacks `path` raises EngineMismatch."""
        return self._read(path, kind, self._sent("GET", path, None, needed=needed))

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> None:
        """Post JSON; of the answer only the status counts."""
        self._sent("POST", path, body)

    def ask(
        self,
        path: str,
        kind: type[Answered],
        body: Mapping[str, Any] | None = None,
        *,
        patient: bool = False,
        most_bytes: int = MOST_BYTES,
    ) -> Answered:
        """Post JSON and read the answer. With `patient`, there is no limit of time."""
        sent = self._sent("POST", path, body, patient=patient, most_bytes=most_bytes)
        return self._read(path, kind, sent)

    def init_weight_transfer_engine(self, init_info: Mapping[str, Any]) -> None:
        self.post("init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        self.post("start_weight_update")

    def update_weights_chunk(self, update_info: Mapping[str, Any]) -> None:
        self.post("update_weights", {"update_info": update_info})

    def finish_weight_update(self) -> None:
        self.post("finish_weight_update")

    def _named(self, path: str) -> str:
        return f"{self.base}/{path.partition('?')[0]}"

    def _read(self, path: str, kind: type[Answered], body: bytes) -> Answered:
        try:
            return read(kind, body)
        except ValueError as error:
            raise EngineFault(f"{self._named(path)}: the answer {error}") from error

    def _sent(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        *,
        patient: bool = False,
        needed: bool = False,
        most_bytes: int = MOST_BYTES,
    ) -> bytes:
        """Return the body of an answer of status 200."""
        limit_s = None if patient else self._timeout_s
        status, answer = self._exchange(method, path, body, limit_s, most_bytes)
        if status == 200:
            return answer
        message = _message(answer)
        if status == 400 or WEIGHT_STREAM in message:
            raise refusal(message)
        where = self._named(path)
        if status == 401:
            raise EngineMismatch(
                f"{where} refuses this run's {gate.VARIABLE}; set the same in both environments"
            )
        if needed and status == 404:
            raise EngineMismatch(
                f"the server at {self.base} has no {path.partition('?')[0]}, one of vLLM's "
                "development endpoints; start it with `python -m vlm_rl.serve` and the run's config"
            )
        raise EngineFault(f"{where} must answer status 200, got {status}: {message}")

    def _exchange(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        limit_s: float | None,
        most_bytes: int = MOST_BYTES,
    ) -> tuple[int, bytes]:
        """Return the status and the body of an answer that comes within the limits."""
        where = self._named(path)

        def exchange() -> tuple[int, bytes]:
            with requests.request(
                method,
                f"{self.base}/{path}",
                json=body,
                headers=gate.header(self._token) | {"Accept-Encoding": "identity"},
                timeout=(self._timeout_s, limit_s),
                allow_redirects=False,
                stream=True,
            ) as response:
                _refuse_redirect(where, response)
                return response.status_code, _whole(where, response, most_bytes)

        try:
            return exchange() if limit_s is None else _within(limit_s, exchange)
        except TimeoutError:
            raise EngineFault(f"{where} gives no whole answer within {limit_s:g} s") from None
        except (requests.RequestException, HTTPError, OSError, ValueError) as error:
            raise EngineFault(f"{where} does not answer: {shown(str(error), 300)}") from error


class Silence:
    """Time since a server last finished a request or read or wrote a token.

    Seconds for which the server's processes, where `pids` knows them, wait for a core do not count.
    """

    def __init__(self, http: Http, limit_s: float, pids: Callable[[], Iterable[int]]) -> None:
        self._http = http
        self._limit_s = limit_s
        self._tokens = http.tokens()
        self._silence = Stopwatch(pids)
        self.restart()

    def restart(self) -> None:
        """Restart the clock: a request was finished."""
        self._looked = time.monotonic()
        self._silence.restart()

    def check(self) -> None:
        """Raise EngineFault once silence has lasted for the limit. Call it every second."""
        now = time.monotonic()
        if now - self._looked > self._limit_s / 4:
            self._looked, before = now, self._tokens
            # a crowded server may not say; what it had counted before stays known
            self._tokens = max(self._http.tokens(), before)
            if self._tokens > before >= 0:
                self._silence.restart()
        if self._silence.look() > self._limit_s:
            raise EngineFault(
                f"the server at {self._http.base} has done nothing for {self._limit_s:g} s"
            )


def _within(limit_s: float, call: Callable[[], Returned]) -> Returned:
    """Return `call()`, in a thread that is left behind if it takes longer. Raises TimeoutError.

    A limit of the socket starts anew with every byte, so a server that sends one now and then would
    hold the run forever.
    """
    return begun(call).result(limit_s)


def _refuse_redirect(where: str, response: requests.Response) -> None:
    if 300 <= response.status_code < 400:
        target = shown(response.headers.get("location", "nowhere"))
        raise EngineMismatch(
            f"{where} must answer itself, got status {response.status_code} to {target}; set "
            "VLLMServer.url to the server's own address"
        )


def _whole(where: str, response: requests.Response, most_bytes: int) -> bytes:
    pieces = bytearray()
    for piece in response.iter_content(PIECE):
        pieces += piece
        if len(pieces) > most_bytes:
            raise EngineFault(f"{where} must answer with at most {most_bytes} bytes, sent more")
    return bytes(pieces)


def _message(body: bytes) -> str:
    """Return what an answer says of its failure; vLLM's is `{"error": {"message": ...}}`."""
    try:
        error = loads(body)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, RecursionError):
        text = body[:4000].decode(errors="replace")
    return shown(text, 1000)
