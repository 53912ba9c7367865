"""What the log-probabilities of the head cost beside the matrix products that they need.

    OMP_NUM_THREADS=1 python -m measurements.head --rows 256 1024 --hidden 512 2048

Measures forward and backward of `vlm_rl.model.logprobs.linear_logprobs` on random numbers and, in
turn with it, the four bare products: logits twice, into memory that is there already, the gradient
of the hidden states, the gradient of the weight. Prints medians of the CPU time over theirs.

V 152,000, float32, one CPU thread of a busy machine, one to three turns; "torch" is its own
`linear_cross_entropy` in chunks of 256 rows (in those of its choice it took 27 times as long):

    rows  hidden  bare    logprobs  and entropy  and its gradient  weight frozen  torch
     256     512   1.1 s      1.07         1.13              1.16           0.52   1.23
    1024     512   3.6 s      1.03         1.08              1.12           0.51
    4096     512  13.9 s      1.03         1.01

In bfloat16 the products are faster, so that what is added weighs more: 256 rows, hidden 512, bare
0.31 s, 1.32, 1.39 and 1.53.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from vlm_rl.model.logprobs import linear_logprobs

Way = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[256])
    parser.add_argument("--hidden", type=int, nargs="+", default=[512])
    parser.add_argument("--vocabulary", type=int, default=152_000)
    parser.add_argument("--pairs", type=int, default=3, help="times that each way runs")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--only", nargs="+", help="these ways, beside the bare products")
    arguments = parser.parse_args()
    for width in arguments.hidden:
        for rows in arguments.rows:
            dtype = getattr(torch, arguments.dtype)
            ways = ways_of(rows, width, arguments.vocabulary, dtype)
            kept = ["bare", *(arguments.only or [name for name in ways if name != "bare"])]
            seconds = in_turn({name: ways[name] for name in kept}, arguments.pairs)
            print(f"rows {rows}, hidden {width}, bare {median(seconds['bare']):.2f} s", end="")
            for name, ratio in ratios(seconds).items():
                print(f", {name} {ratio:.2f}", end="")
            print(flush=True)


def ways_of(rows: int, width: int, vocabulary: int, dtype: torch.dtype) -> dict[str, Way]:
    """Return what is measured, by name, all on the same numbers."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator).to(dtype)
    weight = torch.randn(vocabulary, width, generator=generator).div_(width**0.5).to(dtype)
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    factors = torch.randn(rows, generator=generator)

    def ours(*, entropy: bool = False, entropy_in_loss: bool = False, frozen: bool = False) -> None:
        leaf, head = hidden.detach().requires_grad_(), weight.detach().requires_grad_(not frozen)
        stats = linear_logprobs(leaf, head, targets, with_entropy=entropy)
        loss = stats.logprobs @ factors
        if entropy_in_loss and stats.entropy is not None:
            loss = loss + stats.entropy @ factors
        loss.backward()

    def of_torch() -> None:
        leaf, head = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=256)
        losses = nn.functional.linear_cross_entropy(
            leaf, head, targets, reduction="none", options=options
        )
        (losses.float() @ factors).backward()

    return {
        "bare": partial(bare_products, Products(hidden, weight)),
        "logprobs": ours,
        "and entropy": partial(ours, entropy=True),
        "and its gradient": partial(ours, entropy=True, entropy_in_loss=True),
        "weight frozen": partial(ours, frozen=True),
        "torch": of_torch,
    }


class Products:
    """The operands, and memory for the logits."""

    def __init__(self, hidden: Tensor, weight: Tensor) -> None:
        self.hidden, self.weight = hidden, weight
        self.logits = hidden.new_zeros(len(hidden), len(weight))


def bare_products(on: Products) -> None:
    """Do the four products with whole logits; every backward must give new gradients."""
    torch.mm(on.hidden, on.weight.T, out=on.logits)
    torch.mm(on.hidden, on.weight.T, out=on.logits)
    torch.mm(on.logits, on.weight)
    torch.mm(on.logits.T, on.hidden)


def in_turn(ways: dict[str, Way], times: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each run of each way, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(times + 1):
        for name, run in ways.items():
            start = time.process_time()
            run()
            if turn:
                seconds[name].append(time.process_time() - start)
    return seconds


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Return the median over turns of each way's time over the bare products' of that turn."""
    bare = seconds["bare"]
    return {
        name: median(own / base for own, base in zip(times, bare, strict=True))
        for name, times in seconds.items()
        if name != "bare"
    }


if __name__ == "__main__":
    main()
