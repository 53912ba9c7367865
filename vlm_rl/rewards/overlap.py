"""How far boxes x1, y1, x2, y2 overlap, and which of two sets belong together."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from vlm_rl.verification.places import Place

Matrix = NDArray[np.float64]


def iou(boxes: Sequence[Place], others: Sequence[Place]) -> Matrix:
    """Return [n, m]: the area that two boxes share, divided by the area that they cover together.

    In [0, 1]. A box without area, or with corners the wrong way round, has 0 with every other.
    """
    shared, covered = _shared_and_covered(boxes, others)
    return np.divide(shared, covered, out=np.zeros_like(shared), where=covered > 0)


def giou(boxes: Sequence[Place], others: Sequence[Place]) -> Matrix:
    """Return [n, m]: IoU less the part that neither box covers of the smallest box around both.

    In [-1, 1] (https://arxiv.org/abs/1902.09630). A box without area has -1 with every other.
    """
    a, b = _corners(boxes)[:, None], _corners(others)[None]
    _, covered = _shared_and_covered(boxes, others)
    sides = np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])
    around: Matrix = sides.prod(-1)
    real = _areas(boxes)[:, None] * _areas(others)[None] > 0
    empty = np.divide(around - covered, around, out=np.zeros_like(around), where=real)
    return np.asarray(np.where(real, iou(boxes, others) - empty, -1.0))


def contained(boxes: Sequence[Place], points: Sequence[Place]) -> Matrix:
    """Return [n, m]: 1 where a box holds a point x, y, its border included, else 0."""
    a, b = _corners(boxes)[:, None], _corners(points)[None]
    return np.asarray(((a[..., :2] <= b) & (b <= a[..., 2:])).all(-1), dtype=np.float64)


def mean_of_best(values: Matrix, unmatched: float) -> float:
    """Return the mean over the one-to-one matching of rows to columns with the largest sum.

    A row or column that is left over counts as `unmatched`; the mean is over the larger number.
    """
    rows, columns = linear_sum_assignment(values, maximize=True)
    missing = max(values.shape) - len(rows)
    return float((values[rows, columns].sum() + unmatched * missing) / max(values.shape))


def _shared_and_covered(boxes: Sequence[Place], others: Sequence[Place]) -> tuple[Matrix, Matrix]:
    a, b = _corners(boxes)[:, None], _corners(others)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides, 0.0).prod(-1)
    return shared, _areas(boxes)[:, None] + _areas(others)[None] - shared


def _areas(boxes: Sequence[Place]) -> Matrix:
    array = _corners(boxes)
    areas: Matrix = np.maximum(array[:, 2:] - array[:, :2], 0.0).prod(-1)
    return areas


def _corners(places: Sequence[Place]) -> Matrix:
    return np.array(places, dtype=np.float64)
