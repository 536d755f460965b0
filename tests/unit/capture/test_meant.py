"""Numbers that are known in float32 alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from parity.capture.meant import meant

NUMBERS = {
    "GELU": math.sqrt(1 / 2),
    "tanh GELU": math.sqrt(2 / math.pi),
    "erf": 2 / math.sqrt(math.pi),
    "heads of 12": 1 / math.sqrt(12),
    "width 768": 1 / math.sqrt(768),
    "circle": -2 * math.pi,
    "log2(e)": 1 / math.log(2),
    "thirds": 1 / 3,
    "decimal": 0.044715,
    "epsilon": 1e-12,
    "large": -3.4e38,
}


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_usual_constants_are_read_as_they_were_meant(number: float) -> None:
    """Catches a usual constant that is read as something else that rounds to the same float32."""
    assert math.isclose(meant(np.array(number, np.float32)), number, rel_tol=1e-15)


def test_no_reading_contradicts_what_is_known() -> None:
    """Catches a number that is changed, an infinity that raises, or a sign that is lost."""
    drawn = np.random.default_rng(0).standard_normal(500).astype(np.float32)
    edges = np.array([0.0, np.inf, -np.inf, 1e-45, 3.4e38], np.float32)
    for value in np.concatenate([drawn, 1e-30 * drawn, 1e30 * drawn, edges]).astype(np.float32):
        assert np.float32(meant(value)) == value
    assert math.isnan(meant(np.array(np.nan, np.float32)))
