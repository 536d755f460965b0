"""Numbers that identify an array's values, in whatever order and shape they are."""

from __future__ import annotations

from typing import Any

import numpy as np

SAME = 1e-9  # relative difference of the fingerprints of equal values in float64


def fingerprint(array: Any, of: Any = np) -> Any:
    """Return numbers that are equal for arrays that hold the same values in any order.

    The number of elements, the sum, the sum of absolute values, of squares and of cubes, and the
    largest.
    """
    x = array.astype(np.float64)
    return of.stack(
        [
            of.asarray(float(x.size)),
            x.sum(),
            abs(x).sum(),
            (x * x).sum(),
            (x * x * x).sum(),
            x.max() if x.size else x.sum(),
        ]
    )


def same_print(a: np.ndarray, b: np.ndarray, limit: float = SAME) -> bool:
    """Return whether two fingerprints are those of the same values, up to rounding."""
    if a[0] != b[0]:
        return False
    scale = np.array([1.0, a[2], a[2], a[3], max(abs(a[4]), a[3] ** 1.5), max(abs(a[5]), a[2])])
    return bool((abs(a - b) <= limit * (scale + 1e-300)).all())
