"""vLLM as a server of its own: `class_path: vlm_rl.rollout.VLLMServer`.

Without a `url` the run starts a server on this node, on the GPUs that `devices` names. With a `url`
it uses a server that `python -m vlm_rl.serve` started, on this or another node. Requests go over
HTTP (vLLM's token-in, token-out endpoint), weights through vLLM's weight-transfer API.

All ranks of a run ask the same server, each for its share. Rank 0 starts it and sends the weights.
"""

import base64
import io
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import torch
from PIL import Image

from vlm_rl import ranks
from vlm_rl.processes.stopwatch import Stopwatch
from vlm_rl.rollout.faults import EngineError, EngineFault, EngineMismatch
from vlm_rl.rollout.sampling import Sampling
from vlm_rl.rollout.vllm import die_with_parent, environment, gate
from vlm_rl.rollout.vllm.base import VLLMBase
from vlm_rl.rollout.vllm.client import Http, Silence
from vlm_rl.rollout.vllm.plugin import NAME
from vlm_rl.rollout.vllm.protocol import Answer, RawCompletion, Request
from vlm_rl.rollout.vllm.replies import (
    CompletionChoice,
    Emptied,
    Generated,
    ServedConfig,
    ServerInfo,
    WorldSize,
)
from vlm_rl.rollout.vllm.weight_sender import WeightSender
from vlm_rl.rollout.vllm.weight_stream import address_towards
from vlm_rl.rollout.watchdog import touch_all

AHEAD = 8
"""Requests, each of a whole group, that wait at the server while others are decoded."""

TOKEN_BYTES = 4096
"""More than vLLM writes of a token: its id, its text, its bytes and its log-probability."""


def end_server(process: subprocess.Popen[bytes]) -> None:
    """End a server that leads a session of its own, and all its children."""
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(5)
    with suppress(ProcessLookupError):  # also children of a server that died
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class VLLMServer(VLLMBase):
    """A vLLM server; with `url` one that runs already, which the run waits for and never stops.

    `devices` are the GPUs of the run's own server, by number; without them it sees those of the
    trainer and needs room beside it. The death of its process is noticed within a second. A hung
    server, or one at a `url` that cannot be reached, is noticed after `silence_timeout_s`. Other
    arguments: see VLLMBase. A server that runs already must have been started with the same ones,
    and both need the same secret in the environment variable VLM_RL_SERVER_TOKEN.
    """

    overlaps = True

    def __init__(
        self, *, url: str | None = None, devices: Sequence[int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if url is not None and urlsplit(url).port is None:
            raise ValueError(f"VLLMServer.url must be like http://host:8000, got {url!r}")
        if devices is not None and (url is not None or len(devices) < self.tensor_parallel_size):
            raise ValueError(
                f"VLLMServer.devices={list(devices)} must be given without url, one for each of "
                f"tensor_parallel_size={self.tensor_parallel_size} workers"
            )
        self.url = url
        self.devices = devices
        self.is_elsewhere = url is not None or devices is not None
        if url is not None and self.adapter_rank:
            raise ValueError(
                f"VLLMServer.adapter_rank={self.adapter_rank} needs a folder that both sides see, "
                "which a server with a url lacks; leave it at 0 to merge adapters into the weights"
            )
        self._process: subprocess.Popen[bytes] | None = None
        self._adapter: dict[str, str] = {}

    def command(self, host: str, port: int) -> list[str]:
        """Return the command that starts the server."""
        program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        options = {"host": host, "port": port, "enable_scale_out": True}
        options["middleware"] = f"{gate.__name__}.{gate.TokenGate.__name__}"
        if self.tensor_parallel_size == 1:
            options["distributed_executor_backend"] = "uni"  # one process less, except on a CPU
        return [*program, *_flags(self.arguments() | options)]

    def environment(self, token: str) -> dict[str, str]:
        """Return the environment of the server's process, which asks for `token`."""
        # the weight-transfer API is among vLLM's development endpoints
        own = {"VLLM_SERVER_DEV_MODE": "1", gate.VARIABLE: token}
        own["PYTHONPATH"] = environment.python_path(self.folder)
        if self.devices is not None:
            own["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self.devices))
        if self.adapter_rank:
            own["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
        return environment.without_launcher(os.environ | environment.settings() | own)

    def check(self, sampling: Sampling) -> None:
        super().check(sampling)
        if self.url is not None:
            gate.shared_token()

    def check_model(self, config: Any) -> None:
        if self.url is None:  # else vLLM runs on another machine
            super().check_model(config)

    def _check_placement(self, world_size: int, num_nodes: int, devices_per_node: int) -> None:
        if self.url is None and num_nodes > 1:
            raise ValueError(
                f"trainer.num_nodes={num_nodes}: VLLMServer without url is for the ranks of one "
                "node; start it with `python -m vlm_rl.serve` and set engine.init_args.url, or "
                "take vlm_rl.rollout.VLLMEngine"
            )

    @property
    def _has_engine(self) -> bool:
        return ranks.rank() == 0

    def _launches_after(self, own: bool) -> bool:
        return True  # all ranks share the server

    def _launch(self) -> WeightSender | None:
        base, token = self._place()
        self._http = Http(base, self.silence_timeout_s, token)
        if not self._has_engine:
            return None
        if self.url is None:
            self._process = self._spawn(base, token)
        self._await_health()
        self._check_settings()
        return WeightSender(
            self._http,
            num_workers=self._http.get("get_world_size", WorldSize).world_size,
            host=_address_towards(base),
            dtype=getattr(torch, self.precision),
            chunk_bytes=self.chunk_bytes,
            timeout_s=self.silence_timeout_s,
        )

    def _place(self) -> tuple[str, str]:
        """Return the address of the server and its secret; of the run's own, rank 0 chooses."""
        if self.url is not None:
            return self.url.rstrip("/"), gate.shared_token()
        port, token = ranks.gather((_free_port(), gate.new_token()))[0]
        return f"http://127.0.0.1:{port}", token

    def _spawn(self, base: str, token: str) -> subprocess.Popen[bytes]:
        self._log = self.folder / "server.log"
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, die_with_parent.__file__, *self.command("127.0.0.1", _port(base))],
                stdin=subprocess.PIPE,  # closes when this process ends, even if it is killed
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment(token),
                start_new_session=True,  # so that its own children can be ended with it
            )

    def _await_health(self) -> None:
        # a look at its health may take five seconds
        waited = Stopwatch(self._own_pids, every_s=min(5.0, self.startup_timeout_s / 4))
        while (reason := self._http.healthy()) is not None:
            touch_all()  # this wait has its own limit
            self._check_process()
            if waited.look() > self.startup_timeout_s:
                raise EngineFault(
                    f"the server at {self._http.base} is not up after {self.startup_timeout_s:g} s"
                    f": {reason}"
                )
            time.sleep(0.2)

    def _own_pids(self) -> list[int]:
        return [] if self._process is None else [self._process.pid]

    def _check_process(self) -> None:
        """Raise EngineFault if the run's own server has ended."""
        if self._process is not None and self._process.poll() is not None:
            tail = self._log.read_text(errors="replace").strip().splitlines()[-1:]
            raise EngineFault(f"the server ended with status {self._process.returncode}: {tail}")

    def _check_settings(self) -> None:
        """Raise EngineMismatch with the name of every setting that is not ours."""
        path = "server_info?config_format=json"
        info = self._http.get(path, ServerInfo, needed=True).vllm_config
        wrong = [
            f"{name} is {theirs!r}, must be {ours!r}"
            for name, theirs, ours in self._settings(info)
            if theirs != ours
        ]
        longest = info.served.max_model_len
        if longest < self.max_model_len:
            wrong.append(f"max_model_len is {longest}, must be at least {self.max_model_len}")
        if wrong:
            raise EngineMismatch(
                f"the server at {self._http.base} cannot serve this run: {'; '.join(wrong)}; "
                "start it with `python -m vlm_rl.serve` and the run's own config"
            )

    def _settings(self, info: ServedConfig) -> list[tuple[str, Any, Any]]:
        """List (name, the server's, ours) of what decides the distribution sampled and recorded."""
        model, transfer = info.served, info.weight_transfer_config
        backend = None if transfer is None else transfer.backend
        return [
            ("logprobs_mode", model.logprobs_mode, "processed_logprobs"),
            ("generation_config", model.generation_config, "vllm"),
            ("dtype", model.dtype.removeprefix("torch."), self.precision),
            ("weight_transfer_config.backend", backend, NAME),
        ]

    def _stop(self) -> None:
        process, self._process = self._process, None
        self._adapter = {}
        if process is None:
            return
        end_server(process)

    def _ask(self, requests: Sequence[Request]) -> list[Answer]:
        todo = deque(enumerate(requests))
        results: Queue[tuple[int, Answer | BaseException]] = Queue()
        completions = max(request.parameters["n"] for request in requests)
        for _ in range(min(len(requests), math.ceil(self.max_concurrent / completions) + AHEAD)):
            # daemons, so that a server that never answers cannot keep this process from ending
            Thread(target=self._work, args=(todo, results), daemon=True).start()
        answers: dict[int, Answer] = {}
        try:
            silence = Silence(self._http, self.silence_timeout_s, self._own_pids)
            while len(answers) < len(requests):
                touch_all()  # silence of the server has its own limit
                self._check_process()
                if self._closes:
                    raise EngineFault("the run has ended")
                with suppress(Empty):
                    index, result = results.get(timeout=1.0)
                    if isinstance(result, BaseException):
                        raise result
                    answers[index] = result
                    silence.restart()
                silence.check()
        finally:
            # also after Ctrl-C: the server would continue with them
            if len(answers) < len(requests):
                todo.clear()
                with suppress(EngineError):
                    self._http.hurried(5.0).post("abort_requests", {})
        return [answers[index] for index in range(len(requests))]

    def _work(
        self,
        todo: deque[tuple[int, Request]],
        results: Queue[tuple[int, Answer | BaseException]],
    ) -> None:
        while todo:
            with suppress(IndexError):  # another thread took the last one
                index, request = todo.popleft()
                try:
                    results.put((index, self._answer(request)))
                except BaseException as error:  # whatever it is, the main thread waits for it
                    results.put((index, error))

    def _answer(self, request: Request) -> Answer:
        body = {
            "token_ids": request.prompt.unexpanded_ids.tolist(),
            "content_parts": [
                {"type": "image_url", "url": _data_url(image)} for image in request.prompt.images
            ],
            "sampling_params": request.parameters,
            "return_token_ids": True,
            **self._adapter,
        }
        # no limit for one request: it may wait behind many; `Silence` watches the whole server
        tokens = request.parameters["n"] * request.parameters["max_tokens"]
        most_bytes = TOKEN_BYTES * (tokens + len(request.prompt.token_ids) + 256)
        answer = self._http.ask(
            "inference/v1/generate", Generated, body, patient=True, most_bytes=most_bytes
        )
        choices = [_raw(choice) for choice in answer.choices]
        return Answer(answer.prompt_token_ids or [], choices, origin=self._http.base)

    def _load_adapter(self, number: int, folder: Path) -> None:
        name = f"policy-{number}"
        if self._has_engine:
            named = {"lora_name": name, "lora_path": str(folder)}
            self._http.post("v1/load_lora_adapter", named)
            if before := self._adapter.get("model"):
                self._http.post("v1/unload_lora_adapter", {"lora_name": before})
        self._adapter = {"model": name}

    def _before_weights(self) -> None:
        if self._has_engine:
            self._http.post("abort_requests", {})  # a failed attempt may have left some

    def _empty_caches(self) -> None:
        if not self._has_engine:
            return
        if not self._http.ask("reset_prefix_cache", Emptied).success:
            raise EngineFault("its prefix cache could not be emptied")
        self._http.post("reset_mm_cache")
        self._http.post("reset_encoder_cache")


def _flags(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Write arguments of `vllm.LLM` as options of its server."""
    for name, value in arguments.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{option}" if value else f"--no-{option}"
        else:
            yield f"--{option}"
            yield json.dumps(value) if isinstance(value, dict) else str(value)


def _raw(choice: CompletionChoice) -> RawCompletion:
    content = (choice.logprobs.content if choice.logprobs else None) or []
    logprobs = [token.logprob for token in content]
    return RawCompletion(choice.token_ids or [], logprobs, choice.finish_reason)


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # lossless: the exact pixels of the trainer
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _address_towards(base: str) -> str:
    """Return this node's address on the route to a server. Raises EngineFault without a route."""
    hostname = urlsplit(base).hostname
    assert hostname is not None, "a base has a host"
    try:
        return address_towards(hostname, _port(base))
    except OSError as error:
        raise EngineFault(f"there is no route to the server at {base}: {error}") from error


def _port(base: str) -> int:
    port = urlsplit(base).port
    assert port is not None, "a base has a port"
    return port


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
