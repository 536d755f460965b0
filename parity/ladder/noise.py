"""Checks of a trajectory that say nothing, because it moves from itself as far as it is from zero.

The limit of a trajectory grows with what rounding does to the reference. From 1 on it admits
differences as large as the values: an array of zeros would pass. (Numerics that noise drowns are
not counted either; see `Check.can_fail`.)
"""

from __future__ import annotations

from collections.abc import Sequence

from parity.report.quantity import Kind
from parity.report.report import Check, Omission

REASON = "rounding moves the reference by as much, so a wrong port would pass, too"


def is_noise(check: Check) -> bool:
    """Return whether a check of a trajectory passes, but no port could fail it."""
    return check.ok and check.limit >= 1 and (check.rung, check.kind) == ("L5", "structure")


def says_something(trajectory: Sequence[Check]) -> bool:
    """Return whether checks of one step of training could fail for the loss and some parameter."""
    kinds = {check.quantity.kind for check in trajectory if not is_noise(check)}
    return {Kind.LOSS, Kind.STATE} <= kinds


def without_noise(checks: Sequence[Check]) -> tuple[list[Check], list[Omission]]:
    """Set checks of a trajectory apart that no port could fail.

    Args:
        checks: Those of one rung.

    Returns:
        The checks that say something, and an omission for each that does not. All are required
        unless the others hold the loss and a parameter.
    """
    kept = [check for check in checks if not is_noise(check)]
    required = not says_something(kept)
    omitted = [
        Omission(c.rung, c.layer, c.reference, c.quantity, REASON, required)
        for c in checks
        if is_noise(c)
    ]
    return kept, omitted
