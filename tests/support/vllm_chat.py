"""vLLM's own server of chat completions, on the shipped tiny policy."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.support.evaluation_helpers import WARM_START
from tests.support.patience import until
from vlm_rl.rollout.vllm import environment


@contextmanager
def vllm_chat_server(folder: Path) -> Iterator[str]:
    """Yield the address of a vLLM server that serves the tiny policy as `tiny`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "model": WARM_START,
        "served-model-name": "tiny",
        "host": "127.0.0.1",
        "port": port,
        "dtype": "float32",
        "max-model-len": 240,
        "max-num-seqs": 16,
        "max-num-batched-tokens": 8192,
        "kv-cache-memory-bytes": 2**26,
        "generation-config": "vllm",
        "distributed-executor-backend": "uni",
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += [f"--{name}={value}" for name, value in options.items()]
    command += ["--enforce-eager", "--no-enable-chunked-prefill"]
    paths = {"PYTHONPATH": environment.python_path(folder)}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command,
            env=os.environ | environment.settings() | paths,
            start_new_session=True,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: healthy(port) or server.poll() is not None, every_s=0.3)
        assert server.poll() is None, (folder / "log").read_text(errors="replace")[-3000:]
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def healthy(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health") as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
