"""When a server counts as silent: by what it does, not by how busy its machine is.

Broken on purpose, each seen red: a failed reading forgets the last one -> does not always answer;
waits for a core that count -> starved; tokens not looked at, silence that never ends.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.support.starving import busy_core, starve
from vlm_rl.rollout.faults import EngineFault
from vlm_rl.rollout.vllm.client import Http, Silence

LIMIT_S = 1.0


class Metrics(BaseHTTPRequestHandler):
    """Of a server that decodes a token between two questions, and answers every other one."""

    asked = 0
    decodes = True

    def do_GET(self) -> None:
        type(self).asked += self.decodes
        if self.asked % 2 == 0 or not self.decodes:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"vllm:generation_tokens_total {self.asked}\n".encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[Http]:
    monkeypatch.setattr(Metrics, "asked", 0)
    with HTTPServer(("127.0.0.1", 0), Metrics) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Http(f"http://127.0.0.1:{server.server_port}", LIMIT_S)
        server.shutdown()


def test_server_that_does_not_always_answer_is_not_silent_before_it_is(
    metrics: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence = Silence(metrics, LIMIT_S, lambda: [os.getpid()])
    check_until(silence, 12)
    monkeypatch.setattr(Metrics, "decodes", False)
    with pytest.raises(EngineFault, match="done nothing for 1 s"):
        check_until(silence, 1000)


def check_until(silence: Silence, asked: int) -> None:
    while Metrics.asked < asked:
        silence.check()
        time.sleep(LIMIT_S / 20)


def test_server_that_waits_for_a_core_is_not_silent() -> None:
    nobody = Http("http://127.0.0.1:9", LIMIT_S)
    command = [sys.executable, "-c", "while True: pass"]
    with busy_core(), subprocess.Popen(command, preexec_fn=starve) as server:
        try:
            silence = Silence(nobody, LIMIT_S, lambda: [server.pid])
            for _ in range(6):
                time.sleep(0.5)
                silence.check()
        finally:
            server.kill()
