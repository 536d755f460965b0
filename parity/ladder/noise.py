"""Checks that say nothing, because of what rounding does to the reference.

Where it overflows in the working precision, there is nothing to compare a port with.

The limit of a trajectory grows with what rounding does to the reference. From 1 on it admits
differences as large as the values: an array of zeros would pass. (Numerics that noise drowns are
not counted either; see `Check.can_fail`.)
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from parity.ladder.keys import full_name
from parity.report.quantity import Kind
from parity.report.report import Check, Omission

REASON = "16 times what rounding does to the reference is as much as the value; zeros would pass"
CHAOTIC = "from step {first} to {last} rounding decides where the reference goes"


def is_noise(check: Check) -> bool:
    """Return whether a check of a trajectory passes, but no port could fail it."""
    return check.ok and check.limit >= 1 and (check.rung, check.kind) == ("L5", "structure")


def tells_weights(step: Sequence[Check], trained: Set[str]) -> bool:
    """Return whether a wrong port could fail a trained parameter; arguments as `says_something`."""
    return any(
        check.quantity.kind is Kind.STATE
        and not is_noise(check)
        and full_name(check.layer, check.quantity.path) in trained
        for check in step
    )


def says_something(step: Sequence[Check], trained: Set[str]) -> bool:
    """Return whether a wrong port could fail one step of training: a parameter, and the loss.

    Args:
        step: All checks of the step.
        trained: Names of the port's trained parameters; a counter, say, is never noise.
    """
    losses = [check for check in step if check.quantity.kind is Kind.LOSS]
    return tells_weights(step, trained) and not any(map(is_noise, losses))


def without_noise(step: Sequence[Check], trained: Set[str]) -> tuple[list[Check], list[Omission]]:
    """Set checks of one step apart that no port could fail.

    Args:
        step: All checks of the step.
        trained: As in `says_something`.

    Returns:
        The checks that say something, and an omission for each that does not. They are required
        if the step as a whole says nothing.
    """
    required = not says_something(step, trained)
    omitted = [
        Omission("L5", check.layer, _tensor(check), check.quantity, REASON, required)
        for check in step
        if is_noise(check)
    ]
    return [check for check in step if not is_noise(check)], omitted


def without_overflows(checks: Sequence[Check]) -> tuple[list[Check], list[Omission]]:
    """Set checks apart for which the reference is not finite in the working precision.

    The port cannot be blamed for them. They are required: what nobody compared is not passed.
    """
    omitted = [
        Omission(check.rung, check.layer, _tensor(check), check.quantity, check.note, True)
        for check in checks
        if not check.has_limit
    ]
    return [check for check in checks if check.has_limit], omitted


def _tensor(check: Check) -> str:
    """Return the name of a tensor in the reference's layer."""
    path = check.quantity.path
    return full_name(check.reference, path) if path else check.reference
