"""A loss for networks that come without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from parity.capture.records import Loss, is_array, is_float, leaves
from parity.spec import draw
from parity.spec.errors import InputError

if TYPE_CHECKING:
    from parity.ladder.port import Port


def probe_losses(
    outputs: tuple[np.ndarray, ...], port: Port
) -> tuple[tuple[Loss, Loss], tuple[np.ndarray, ...]]:
    """Return a loss: the sum of all outputs' elements, each times a different drawn number.

    The numbers are drawn from a standard normal distribution by the port's seed, so that exchanging
    two elements changes the loss.

    Args:
        outputs: The reference's outputs, in the port's layout.
        port: The port, for its seed and name.

    Returns:
        One loss for both sides, and its targets.

    Raises:
        InputError: No output is floating-point.
    """
    floating = [o for o in outputs if is_float(o.dtype)]
    if not floating:
        raise InputError(f"{port.name}: no output is floating-point, nothing can be differentiated")
    targets = tuple(
        draw.generator(port.seed, "probe", i).standard_normal(o.shape) / np.sqrt(o.size)
        for i, o in enumerate(floating)
    )
    return (probe, probe), targets


def probe(outputs: Any, *weights: Any) -> Any:
    """Works on either framework's arrays."""
    found = [o for o in leaves(outputs) if is_array(o) and "float" in str(o.dtype)]
    if len(found) != len(weights):
        raise ValueError(f"{len(found)} floating-point outputs, the reference has {len(weights)}")
    return sum((o * w).sum() for o, w in zip(found, weights, strict=True))
