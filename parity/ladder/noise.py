"""Checks that say nothing, because rounding moves the reference as far as its values are large.

The limit of numerics, and that of a trajectory, grows with what rounding does to the reference.
From 1 on it admits differences as large as the values: an array of zeros would pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from parity.report.quantity import Kind
from parity.report.report import Check, Omission

REASON = "rounding moves the reference by as much, so a wrong port would pass, too"

# Kinds of checks whose limit grows with the noise of the reference, and their rungs.
NOISY = {("structure", "L5"), *(("numerics", f"L{n}") for n in range(6))}


def is_noise(check: Check) -> bool:
    """Return whether a check passes, but no port could fail it."""
    return check.ok and check.limit >= 1 and (check.kind, check.rung) in NOISY


def says_something(trajectory: Sequence[Check]) -> bool:
    """Return whether checks of one step of training could fail for the loss and some parameter."""
    kinds = {check.quantity.kind for check in trajectory if not is_noise(check)}
    return {Kind.LOSS, Kind.STATE} <= kinds


def without_noise(checks: Sequence[Check]) -> tuple[list[Check], list[Omission]]:
    """Set checks apart that no port could fail.

    Args:
        checks: Those of one rung.

    Returns:
        The checks that say something, and an omission for each that does not. Numerics may be left
        out, since structure shows the function. So may parts of a trajectory, if it says something.
    """
    kept = [check for check in checks if not is_noise(check)]
    required = not says_something([c for c in kept if c.kind == "structure"])
    omitted = [
        Omission(
            *(check.rung, check.layer, check.reference, check.quantity),
            f"{check.kind}: {REASON}",
            required and check.kind == "structure",
        )
        for check in checks
        if is_noise(check)
    ]
    return kept, omitted
