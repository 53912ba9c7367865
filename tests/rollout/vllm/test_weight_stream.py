"""The stream of weights is open to the engine's workers only.

Broken on purpose, one at a time, each seen red: listening on every address; the challenge left out;
strangers greeted one after the other; the limit of a greeting kept for a worker.
"""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import AuthenticationError

import psutil
import pytest
import torch

from vlm_rl.rollout.vllm import weight_stream
from vlm_rl.rollout.vllm.weight_stream import WeightSink, WeightSource, flatten, unflatten

HOST = "127.0.0.1"


def joined(source: WeightSource, num_workers: int) -> list[WeightSink]:
    """Let workers join."""
    with ThreadPoolExecutor() as pool:
        admitted = pool.submit(source.admit, num_workers, 30.0)
        join = lambda: WeightSink(HOST, source.port, source.secret, 30.0)  # noqa: E731
        sinks = [pool.submit(join) for _ in range(num_workers)]
        admitted.result()
        return [sink.result() for sink in sinks]


def listening() -> set[tuple[str, int]]:
    """Return the addresses on which this process listens."""
    found = psutil.Process().net_connections("tcp")
    return {(c.laddr.ip, c.laddr.port) for c in found if c.status == psutil.CONN_LISTEN}


def test_bytes_arrive_at_every_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_stream, "PIECE", 1000)
    source = WeightSource(HOST)
    sinks = joined(source, 2)
    tensors = [torch.randn(37, 41), torch.randn(5).bfloat16(), torch.zeros(0)]
    with ThreadPoolExecutor() as pool:
        received = [pool.submit(sink.receive) for sink in sinks]
        source.send(flatten(tensors))
        for buffer in received:
            types = ["float32", "bfloat16", "float32"]
            back = unflatten(buffer.result(), types, [[37, 41], [5], [0]])
            assert all(map(torch.equal, tensors, back))


def test_it_listens_on_its_one_address_until_all_workers_are_there() -> None:
    before = listening()
    source = WeightSource(HOST)
    assert listening() - before == {(HOST, source.port)}
    joined(source, 1)
    assert listening() == before


def test_wrong_secret_is_sent_away_and_gets_nothing() -> None:
    source = WeightSource(HOST)
    with ThreadPoolExecutor() as pool:
        admitted = pool.submit(source.admit, 1, 30.0)
        with pytest.raises(AuthenticationError):
            WeightSink(HOST, source.port, "0" * 64, 30.0)
        assert not admitted.done()
        sink = WeightSink(HOST, source.port, source.secret, 30.0)
        admitted.result()
        received = pool.submit(sink.receive)
        source.send(torch.arange(9, dtype=torch.uint8))
        assert received.result().tolist() == list(range(9))


def test_strangers_that_say_nothing_do_not_keep_a_worker_out() -> None:
    source = WeightSource(HOST)
    strangers = [socket.create_connection((HOST, source.port)) for _ in range(20)]
    strangers[0].sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
    assert len(joined(source, 1)) == 1


def test_trainer_with_another_secret_is_not_believed() -> None:
    """A program that has taken the trainer's place cannot send weights."""
    impostor = WeightSource(HOST)
    with ThreadPoolExecutor() as pool:
        admitted = pool.submit(impostor.admit, 1, 0.5)
        with pytest.raises((AuthenticationError, EOFError, OSError)):
            WeightSink(HOST, impostor.port, "1" * 64, 5.0)
        with pytest.raises(TimeoutError):
            admitted.result()


def test_missing_and_lost_workers_are_faults_in_time() -> None:
    source = WeightSource(HOST)
    with pytest.raises(TimeoutError, match=r"0 of 1 workers have joined after 0\.2 s"):
        source.admit(1, 0.2)
    stuck = WeightSource(HOST)
    with ThreadPoolExecutor() as pool:
        admitted = pool.submit(stuck.admit, 1, 0.5)
        sink = WeightSink(HOST, stuck.port, stuck.secret, 30.0)
        admitted.result()
    with pytest.raises(OSError, match="temporarily unavailable"):
        stuck.send(torch.zeros(64 << 20, dtype=torch.uint8))  # more than the sockets hold
    sink.close()


def test_slow_worker_is_not_held_to_the_limit_of_strangers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weight_stream, "GREETING_S", 0.3)
    source = WeightSource(HOST)
    [sink] = joined(source, 1)
    with ThreadPoolExecutor() as pool:
        sent = pool.submit(source.send, torch.zeros(64 << 20, dtype=torch.uint8))
        time.sleep(1.0)  # until the sockets are full, and then longer than the limit
        assert not sent.done()
        assert len(sink.receive()) == 64 << 20
        sent.result()


def test_every_launch_has_a_secret_of_its_own() -> None:
    sources = [WeightSource(HOST) for _ in range(2)]
    assert sources[0].secret != sources[1].secret
    assert len(sources[0].secret) == 64
