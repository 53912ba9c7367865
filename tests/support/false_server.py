"""An HTTP server that stands where vLLM should, and answers whatever a test wants."""

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

Answer = Callable[[], Iterable[bytes]]
"""The raw bytes of an answer, from its status line on."""


def raw(body: bytes, status: str = "200 OK", **headers: str) -> Answer:
    """Answer with a body."""
    lines = {"content-length": str(len(body)), "content-type": "application/json"}
    lines |= {"connection": "close", **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return lambda: [f"HTTP/1.1 {status}\r\n{head}\r\n".encode(), body]


def of_json(value: Any, status: str = "200 OK") -> Answer:
    """Answer with JSON."""
    return raw(json.dumps(value).encode(), status)


class FalseServer:
    """Answers each path by `answers`, others with 200 and an empty object; `seen` has the heads."""

    def __init__(self, answers: dict[str, Answer], port: int = 0) -> None:
        self.answers = answers
        self.seen: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._over = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def answer(self, path: str, body: bytes) -> Answer:
        """Choose the answer to a request."""
        return self.answers.get(path, of_json({}))

    def drip(self) -> Iterator[bytes]:
        """Send a byte now and then until the test is over."""
        yield b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n"
        while not self._over.wait(0.05):
            yield b" "

    def endless(self) -> Iterator[bytes]:
        """Send spaces as fast as they are read."""
        yield b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        while not self._over.is_set():
            yield b"10000\r\n" + b" " * 0x10000 + b"\r\n"

    def silent(self) -> Iterator[bytes]:
        """Send nothing."""
        self._over.wait()
        yield b""

    def _serve(self) -> None:
        while True:
            try:
                guest, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(guest,), daemon=True).start()

    def _answer(self, guest: socket.socket) -> None:
        with guest:
            head, body = self._received(guest)
            path = head.split()[1].lstrip("/").partition("?")[0]
            self.seen.append(head)
            try:
                for piece in self.answer(path, body)():
                    guest.sendall(piece)
                guest.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the other side has had enough

    def _received(self, guest: socket.socket) -> tuple[str, bytes]:
        """Read a whole request, and return its head and body."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += guest.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        text = head.decode()
        sizes = [line for line in text.lower().splitlines() if line.startswith("content-length")]
        while len(body) < (int(sizes[0].split()[1]) if sizes else 0):
            body += guest.recv(65536)
        return text, body

    def close(self) -> None:
        """End all that goes on."""
        self._over.set()
        with suppress(OSError):  # it was closed before
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@contextmanager
def false_server(**answers: Answer) -> Iterator[FalseServer]:
    """Serve inside."""
    server = FalseServer(answers)
    try:
        yield server
    finally:
        server.close()
