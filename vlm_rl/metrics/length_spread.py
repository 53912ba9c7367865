"""The lengths of several answers of one policy to one problem, as CASTILLO has them.

CASTILLO (arXiv:2505.16881) samples 10 answers to each prompt and gives mean, deviation,
percentiles, the shortest and the longest. Which deviation it means is not published there as far as
we know; here it is that of a sample (n - 1). Percentiles are interpolated linearly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PERCENTILES = (25, 50, 75, 99)


@dataclass(frozen=True)
class LengthSpread:
    """Tokens of `num_samples` answers; `std` is None of a single one."""

    num_samples: int
    mean: float
    std: float | None
    p25: float
    p50: float
    p75: float
    p99: float
    shortest: int
    longest: int

    @property
    def relative_std(self) -> float | None:
        """The deviation in units of the mean; None if either is unknown or all is empty."""
        return None if self.std is None or self.mean == 0 else self.std / self.mean


def spread_of(lengths: Sequence[int]) -> LengthSpread:
    """Return the statistics of lengths [k] in tokens. Raises ValueError without any."""
    if not lengths:
        raise ValueError("lengths of at least one answer are needed")
    values = np.asarray(lengths, dtype=np.float64)
    p25, p50, p75, p99 = (float(p) for p in np.percentile(values, PERCENTILES))
    return LengthSpread(
        num_samples=len(lengths),
        mean=float(values.mean()),
        std=float(values.std(ddof=1)) if len(lengths) > 1 else None,
        p25=p25,
        p50=p50,
        p75=p75,
        p99=p99,
        shortest=int(values.min()),
        longest=int(values.max()),
    )
