"""The number that an author meant by one that is known in float32 alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

DIGITS = 6  # a float32 holds any decimal number of so few
# Largest denominators, the simple numbers first; the last ones are widths of an attention's heads.
DENOMINATORS = (16, 128, 1024)

# 1/sqrt(2) and sqrt(2/pi) of GELU, log2(e) and ln(10) of scales, 2*pi of frequencies.
SQUARES = (1.0, math.pi, 1 / math.pi)
FACTORS = (math.pi, 1 / math.pi, math.log(2), 1 / math.log(2), math.log(10), 1 / math.log(10))


def meant(value: np.ndarray) -> float:
    """Return the number that a float32 scalar most likely rounds.

    That is a short decimal number, or a root or a multiple of a usual constant, or the shortest
    decimal number that rounds to it. All are equally near: none contradicts what is known.
    """
    rounded = np.float32(value)
    shortest = float(str(rounded))
    if not math.isfinite(shortest) or _digits(rounded) <= DIGITS:
        return shortest
    found = (math.copysign(c, shortest) for c in _candidates(abs(shortest)))
    return next((c for c in found if np.float32(c) == rounded), shortest)


def _digits(value: np.float32) -> int:
    mantissa = str(value).lower().partition("e")[0]
    return len(mantissa.replace(".", "").lstrip("-").strip("0"))


def _candidates(value: float) -> Iterator[float]:
    for largest in DENOMINATORS:
        for square in SQUARES:
            fraction = Fraction(value * value / square).limit_denominator(largest)
            yield math.sqrt(fraction * square)
        for factor in FACTORS:
            yield float(Fraction(value / factor).limit_denominator(largest)) * factor
