"""Peaks of devices by name, and of the memory of this process.

Broken on purpose, each seen red: names by substring; a slice with the peak of the whole.
"""

import resource

import pytest
import torch

from vlm_rl.metrics.devices import (
    GB,
    peak_memory_gb,
    peak_resident_bytes,
    peak_tflops,
    peak_tflops_here,
)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200", 989.5),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA A10G", None),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("Tesla T4", None),
    ],
)
def test_peak_is_that_of_the_named_device(name: str, peak: float | None) -> None:
    assert peak_tflops(name) == peak


def test_peak_of_memory_stays_after_it_is_freed() -> None:
    before = peak_resident_bytes()
    torch.ones(before // 4)  # as many bytes, on top of what is here now
    grown = peak_resident_bytes()
    assert before < grown <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    torch.ones(1 << 20)
    assert peak_resident_bytes() == grown


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a CPU")
def test_a_cpu_has_resident_memory_and_no_known_peak() -> None:
    assert peak_memory_gb() == {"resident": pytest.approx(peak_resident_bytes() / GB, rel=0.01)}
    assert peak_tflops_here() is None
