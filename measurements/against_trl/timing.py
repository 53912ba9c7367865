"""Seconds and bytes of a call, and medians of what is run alternately."""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Return seconds and the result: CPU time of this process, or a GPU's from idle to idle."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        start = time.perf_counter()
        result = work()
        torch.cuda.synchronize()
        return time.perf_counter() - start, result
    start = time.process_time()  # other load disturbs it less than wall-clock time
    result = work()
    return time.process_time() - start, result


def alternate(ways: Mapping[str, Callable[[], float]], num_rounds: int) -> dict[str, list[float]]:
    """Run each way once to warm up, then in every round once, the order turned round each time."""
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for work in ways.values():
        work()
    for number in range(num_rounds):
        for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
            measured[name].append(ways[name]())
    return measured


def median_ratio(above: list[float], below: list[float]) -> float:
    """Return the median of the pairs' ratios."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def added_peak_mib(work: Callable[[], Any]) -> float:
    """Return MiB that `work` adds to the memory of this process at its peak (Linux only)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew at what is used now
    before = _status_kib("VmRSS")
    work()
    return (_status_kib("VmHWM") - before) / 2**10


def _status_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])
