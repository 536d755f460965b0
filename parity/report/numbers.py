"""How tables write numbers."""

from __future__ import annotations


def in_points(value: float, signed: bool = False) -> str:
    """Write a score, or with a sign a difference, in points, to two digits.

    What rounds to zero has no sign: "-0.00" would be a difference that nobody can see, and of an
    interval "+0.00" an end above 0, where it may lie below.
    """
    text = f"{value:+z.2f}" if signed else f"{value:z.2f}"
    return "0.00" if text == "+0.00" else text
