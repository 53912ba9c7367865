"""A real HTTP server that speaks OpenAI's chat completions, and fails as a test wants."""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = str
"""A status such as `500`, or `close`, `half`, `garbage`, `empty`, `drip`, `silent`."""


class JudgeServer(ThreadingHTTPServer):
    """Answers by `reply`, a function of the text that is asked; first each of `faults` in turn.

    `asked` has the requests that were read, `most_at_once` how many were open together.
    """

    daemon_threads = True

    def __init__(self, reply: Callable[[str], str], faults: list[Fault], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.reply = reply
        self.faults = faults
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0
        self.hold: Callable[[], None] = lambda: None
        self.dies_after: int | None = None
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.sockets: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def kill(self) -> None:
        """End as a killed server does: nothing more is accepted, open connections break."""
        self.over.set()
        self.socket.close()
        for guest in self.sockets:
            guest.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: connections break on purpose."""


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            server.asked.append(body)
            server.headers.append({k.lower(): v for k, v in self.headers.items()})
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            fault = server.faults.pop(0) if server.faults else ""
            dead = server.dies_after is not None and len(server.asked) > server.dies_after
        try:
            server.hold()
            if dead:
                fault = "close"
            self._fail(fault) if fault else self._answer(body)
        finally:
            with server.lock:
                server.at_once -= 1

    def _answer(self, body: dict[str, Any]) -> None:
        text = self.server.reply(body["messages"][-1]["content"][-1]["text"])
        message = {"role": "assistant", "content": text}
        self._send(
            json.dumps(
                {
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
                }
            ).encode()
        )

    def _send(self, body: bytes, status: int = 200, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _fail(self, fault: Fault) -> None:
        if fault.isdigit():
            said = f"no, and your key is {self.headers.get('authorization')}"
            self._send(json.dumps({"error": {"message": said}}).encode(), int(fault))
        elif fault == "garbage":
            self._send(b'{"choices": "none"')
        elif fault == "empty":
            self._send(b'{"choices": []}')
        elif fault == "half":
            self._send(b'{"choices": [', length=1000)
            self._break()
        elif fault == "close":
            self._break()
        else:
            self._wait(fault)

    def _wait(self, fault: Fault) -> None:
        if fault == "drip":
            self._send(b"{", length=100_000)
        while not self.server.over.wait(0.02):
            if fault == "drip":
                self.wfile.write(b" ")
        self._break()

    def _break(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def judge_server(
    reply: Callable[[str], str], *faults: Fault, port: int = 0
) -> Iterator[JudgeServer]:
    """Serve inside."""
    server = JudgeServer(reply, list(faults), port)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


def enclosed(text: str, name: str) -> str:
    """Return what stands between the lines of `name`, by the tag of its first one."""
    opened = re.search(rf"^<{name} (\w+)>\n", text, re.MULTILINE)
    assert opened is not None
    closing = f"\n</{name} {opened[1]}>"
    rest = text[opened.end() :]
    assert rest.count(closing) == 1
    return rest.partition(closing)[0]


def honest(text: str) -> str:
    """Judge as a judge should: by the golds, and only by what is enclosed as the answer."""
    golds, answer = enclosed(text, "golds").splitlines(), enclosed(text, "answer")
    return f"It says {answer}.\nVerdict: {'yes' if answer.split()[-1] in golds else 'no'}"
