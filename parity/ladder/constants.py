"""Constants: arrays that neither side trains or stores, such as tables of positions and masks."""

from __future__ import annotations

import math

import numpy as np

from parity.capture.records import is_float

# What two libraries' float32 may differ by in a table, of its largest value: each value is rounded,
# by at most half an ulp, where it is made and once or twice on the way.
CONSTANT = 4 * 2.0**-24


def close(source: np.ndarray, target: np.ndarray) -> bool:
    """Return whether two constants are the same but for how float32 rounds."""
    if source.dtype.kind != target.dtype.kind or not source.size:
        return False
    return constant_error(target, source) <= CONSTANT


def constant_error(port: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest difference of two constants, relative to the reference's largest."""
    if not is_float(reference.dtype) or np.array_equal(port, reference):
        return 0.0 if np.array_equal(port, reference) else math.inf
    largest = float(np.max(abs(reference)))
    error = float(np.max(abs(port.astype(np.float64) - reference)))
    return error / largest if largest and math.isfinite(error) else math.inf
