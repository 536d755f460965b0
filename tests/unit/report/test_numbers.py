"""How tables write numbers."""

from __future__ import annotations

import pytest

from parity.report.numbers import in_points


@pytest.mark.parametrize(
    ("value", "plain", "signed"),
    [
        (1.005, "1.00", "+1.00"),
        (-0.006, "-0.01", "-0.01"),
        (-0.004, "0.00", "0.00"),
        (0.004, "0.00", "0.00"),
        (-0.0, "0.00", "0.00"),
    ],
)
def test_what_rounds_to_zero_has_no_sign(value: float, plain: str, signed: str) -> None:
    """Catches "-0.00", and "+0.00" as the lower end of an interval that holds 0."""
    assert (in_points(value), in_points(value, signed=True)) == (plain, signed)
