"""The order of a network's outputs: void last or void first.

trainIds keep void last. The files of davidtvs/PyTorch-ENet keep it first: 0 = void, 1 + trainId.
"""

from __future__ import annotations

import numpy as np

ORDERS = ("void-last", "void-first")


def outputs(order: str, classes: int) -> np.ndarray:
    """Return the network's output for each trainId; void's comes after those of the classes.

    Args:
        order: `void-last` or `void-first`.
        classes: Number of classes, without void.

    Returns:
        (classes + 1,) uint8, a permutation.

    Raises:
        ValueError: An unknown order.
    """
    if order not in ORDERS:
        raise ValueError(f"label order {order!r}, expected {' or '.join(ORDERS)}")
    last = np.arange(classes + 1)
    return np.asarray(last if order == "void-last" else (last + 1) % (classes + 1), np.uint8)
