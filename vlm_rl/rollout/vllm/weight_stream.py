"""The stream of weights: the trainer sends, the engine's workers receive, over TCP.

The trainer listens on one address only, that of loopback or of the interface that reaches the
server. A worker opens with a secret that it has by the engine's own channel, and both sides prove
it to each other (HMAC, `multiprocessing.connection`) before anything else is read. Nothing is
pickled. A chunk is one flat buffer of bytes, for every worker the same; it crosses nodes and needs
no GPU. The bytes are not encrypted.
"""

import math
import secrets
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from queue import Empty, Queue
from threading import Thread

import torch
from torch import Tensor

PIECE = 16 << 20
"""Bytes in one message."""

GREETING_S = 10.0
"""How long a stranger may take to prove the secret."""


class WeightSource:
    """The trainer's end. `host` is the address that it listens on, `port` is free, `secret` new."""

    def __init__(self, host: str) -> None:
        """Listen on `host`. Raises OSError if this machine does not have that address."""
        self.host = host
        self.secret = secrets.token_hex(32)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, 0), family=family)
        self.port: int = self._socket.getsockname()[1]
        self._workers: list[Connection] = []

    def admit(self, num_workers: int, timeout_s: float) -> None:
        """Wait for all workers, then listen no longer. Who lacks the secret is sent away.

        Raises OSError after `timeout_s`. From then on a worker that takes nothing for so long
        counts as lost.
        """
        end = time.monotonic() + timeout_s
        proven: Queue[Connection] = Queue()
        with self._socket:
            self._socket.settimeout(0.1)
            while len(self._workers) < num_workers:
                if time.monotonic() > end:
                    there = f"{len(self._workers)} of {num_workers} workers"
                    raise TimeoutError(f"{there} have joined after {timeout_s:g} s")
                with suppress(TimeoutError):
                    guest, _ = self._socket.accept()
                    # each by itself, so that a silent one does not keep the others waiting
                    Thread(target=self._greet, args=(guest, proven), daemon=True).start()
                with suppress(Empty):
                    self._workers.append(proven.get_nowait())
        for worker in self._workers:
            _limit_silence(worker, timeout_s)

    def _greet(self, guest: socket.socket, proven: "Queue[Connection]") -> None:
        guest.setblocking(True)
        connection = Connection(guest.detach())
        _limit_silence(connection, GREETING_S)
        try:
            deliver_challenge(connection, self.secret.encode())
            answer_challenge(connection, self.secret.encode())
        except (AuthenticationError, OSError, EOFError, AssertionError, ValueError):
            connection.close()
        else:
            proven.put(connection)

    def send(self, buffer: Tensor) -> None:
        """Send the bytes [n] uint8 on the CPU to every worker. Raises OSError if one is gone."""
        size = struct.pack("<Q", len(buffer))
        view = memoryview(buffer.numpy())  # type: ignore[arg-type]
        for worker in self._workers:
            worker.send_bytes(size)
        for start in range(0, len(view), PIECE):
            for worker in self._workers:
                worker.send_bytes(view[start : start + PIECE])

    def close(self) -> None:
        """End the stream."""
        self._socket.close()
        for worker in self._workers:
            worker.close()
        self._workers.clear()


class WeightSink:
    """A worker's end: what the trainer that waits at `host:port` sends.

    Raises OSError, EOFError or AuthenticationError if it is not there, leaves, or has another
    secret.
    """

    def __init__(self, host: str, port: int, secret: str, timeout_s: float) -> None:
        trainer = socket.create_connection((host, port), timeout_s)
        trainer.setblocking(True)
        self._trainer = Connection(trainer.detach())
        _limit_silence(self._trainer, timeout_s)
        answer_challenge(self._trainer, secret.encode())
        deliver_challenge(self._trainer, secret.encode())

    def receive(self) -> Tensor:
        """Receive the bytes that the trainer sends next, [n] uint8 on the CPU."""
        (size,) = struct.unpack("<Q", self._trainer.recv_bytes(8))
        buffer = torch.empty(size, dtype=torch.uint8)
        view = memoryview(buffer.numpy())  # type: ignore[arg-type]
        for start in range(0, size, PIECE):
            self._trainer.recv_bytes_into(view[start : start + PIECE])
        return buffer

    def close(self) -> None:
        """Leave the stream."""
        self._trainer.close()


def _limit_silence(connection: Connection, limit_s: float) -> None:
    """Let reading and writing fail once no byte has moved for `limit_s`."""
    timeval = struct.pack("ll", int(limit_s), int(limit_s % 1 * 1e6))
    with socket.socket(fileno=connection.fileno()) as borrowed:
        borrowed.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        borrowed.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        borrowed.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        borrowed.detach()  # the connection owns it


def address_towards(host: str, port: int) -> str:
    """Return this node's address on the route to `host:port`. Raises OSError if there is none."""
    family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:  # sends nothing
        probe.connect(place)
        return str(probe.getsockname()[0])


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate the bytes of all tensors, on the CPU."""
    return torch.cat([t.detach().cpu().contiguous().flatten().view(torch.uint8) for t in tensors])


def unflatten(
    buffer: Tensor, dtypes: Sequence[str], shapes: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Undo `flatten`, given the types ("float32") and shapes."""
    tensors, start = [], 0
    for name, shape in zip(dtypes, shapes, strict=True):
        dtype: torch.dtype = getattr(torch, name)
        end = start + math.prod(shape) * dtype.itemsize
        # cloned, since a view needs its type's alignment in memory
        tensors.append(buffer[start:end].clone().view(dtype).reshape(*shape))
        start = end
    return tensors
