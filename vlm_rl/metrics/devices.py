"""What a device can compute at its peak, and how much memory a process has taken."""

import re
import resource
import sys
from pathlib import Path

import torch

from vlm_rl import ranks

GB = 1e9

DENSE_BF16_TFLOPS = {
    "A10": 125.0,
    "A40": 149.7,
    "A100": 312.0,
    "L40": 181.0,
    "L40S": 362.0,
    "H100": 989.5,
    "H800": 989.5,
    "H200": 989.5,
    "B200": 2250.0,
}
"""Tensor cores in bfloat16 without sparsity, by the word in the device's name, from NVIDIA's data
sheet of each (www.nvidia.com/en-us/data-center); where that gives the rate with sparsity alone, as
of H100, H200 and B200, half of it. Lightning has such a table too, but without tensor cores for
some of these."""

_OTHER_PEAK = {"MIG", "NVL", "PCIe"}
"""Words of a slice, which has a share that its name does not tell, and of cards with a lower peak
than the module of their name."""


def peak_tflops(device_name: str) -> float | None:
    """Return the peak of a device, by its name from torch, in dense bfloat16; None if not known."""
    words = set(re.split(r"[ -]", device_name))
    known = words & DENSE_BF16_TFLOPS.keys()
    return DENSE_BF16_TFLOPS[known.pop()] if known and not words & _OTHER_PEAK else None


def peak_tflops_here() -> float | None:
    """Return the peak of this rank's device; None on a CPU, or if it is not known."""
    return peak_tflops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def forget_peak() -> None:
    """Let the peaks of CUDA memory begin anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_gb() -> dict[str, float]:
    """Return the peaks of memory in GB of 1e9 bytes, the largest of all ranks.

    `resident` of the process since it began; of a GPU `allocated` and `reserved` since
    `forget_peak`. Every rank calls it.
    """
    own = {"resident": peak_resident_bytes() / GB}
    if torch.cuda.is_available():
        own["allocated"] = torch.cuda.max_memory_allocated() / GB
        own["reserved"] = torch.cuda.max_memory_reserved() / GB
    everyone = ranks.gather(own)
    return {name: max(peaks[name] for peaks in everyone) for name in own}


def peak_resident_bytes() -> int:
    """Return the peak of this process's resident memory since it began."""
    status = Path("/proc/self/status")
    if not status.exists():  # not on Linux
        return _most_resident(resource.RUSAGE_SELF)
    # not ru_maxrss there, which a process takes over from the one that forked it
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
    assert found is not None, "Linux gives the peak of the resident memory"
    return int(found[1]) * 1024


def peak_resident_bytes_of_children() -> int:
    """Return the peak of the largest child that has ended."""
    return _most_resident(resource.RUSAGE_CHILDREN)


def _most_resident(who: int) -> int:
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(who).ru_maxrss * unit
