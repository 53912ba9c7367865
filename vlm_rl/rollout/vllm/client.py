"""JSON to and from a vLLM server, its weight-transfer API included."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import requests

from vlm_rl.processes.stopwatch import Stopwatch
from vlm_rl.rollout.faults import WEIGHT_STREAM, EngineFault, EngineMismatch, refusal


class Http:
    """A server at `base`. Raises EngineFault if it cannot be reached or fails, EngineMismatch for
    what it says of the weight stream."""

    def __init__(self, base: str, timeout_s: float) -> None:
        self.base = base
        self._timeout_s = timeout_s

    def healthy(self) -> bool:
        try:
            return requests.get(f"{self.base}/health", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def tokens(self) -> float:
        """Count the tokens that the server has read and written so far; -1 if it does not say."""
        try:
            lines = requests.get(f"{self.base}/metrics", timeout=5).text.splitlines()
        except requests.RequestException:
            return -1.0
        counters = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
        return sum(float(line.split()[-1]) for line in lines if line.startswith(counters))

    def get(self, path: str, *, needed: bool = False) -> Any:
        """Get JSON. With `needed`, a server that lacks `path` raises EngineMismatch."""
        return self._sent("GET", path, None, self._timeout_s, needed)

    def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, patient: bool = False
    ) -> Any:
        """Post JSON. With `patient`, the wait for the answer has no limit."""
        return self._sent("POST", path, body, None if patient else self._timeout_s)

    def init_weight_transfer_engine(self, init_info: Mapping[str, Any]) -> None:
        self.post("init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        self.post("start_weight_update")

    def update_weights_chunk(self, update_info: Mapping[str, Any]) -> None:
        self.post("update_weights", {"update_info": update_info})

    def finish_weight_update(self) -> None:
        self.post("finish_weight_update")

    def _sent(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout_s: float | None,
        needed: bool = False,
    ) -> Any:
        try:
            response = requests.request(
                method, f"{self.base}/{path}", json=body, timeout=(self._timeout_s, timeout_s)
            )
        except requests.RequestException as error:
            raise EngineFault(f"{path}: the server does not answer: {error}") from error
        if response.status_code == 400 or WEIGHT_STREAM in response.text:
            raise refusal(_message(response))
        if needed and response.status_code == 404:
            raise EngineMismatch(
                f"the server at {self.base} has no {path.partition('?')[0]}, one of vLLM's "
                "development endpoints; start it with `python -m vlm_rl.serve` and the run's config"
            )
        if response.status_code != 200:
            raise EngineFault(f"{path}: status {response.status_code}: {_message(response)}")
        is_json = "json" in response.headers.get("content-type", "")
        return response.json() if is_json else None


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
            raise EngineFault(f"the server has done nothing for {self._limit_s:g} s")


def _message(response: requests.Response) -> str:
    """Return what an answer says of its failure; vLLM's is `{"error": {"message": ...}}`."""
    try:
        error = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return response.text[:500]
