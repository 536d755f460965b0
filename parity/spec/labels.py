"""Which of a network's outputs is void: the last one, or the first.

trainIds keep void last. The files of davidtvs/PyTorch-ENet keep it first: 0 = void, 1 + trainId.
"""

from __future__ import annotations

import numpy as np

ORDERS = ("void-last", "void-first")


def outputs(order: str, classes: int) -> np.ndarray:
    """The network's output for each trainId, void's after the classes'.

    Args:
        order: `void-last` or `void-first`.
        classes: How many there are, void not counted.

    Returns:
        (classes + 1,) uint8, a permutation.

    Raises:
        ValueError: An unknown order.
    """
    if order not in ORDERS:
        raise ValueError(f"label order {order!r}, expected {' or '.join(ORDERS)}")
    last = np.arange(classes + 1)
    return np.asarray(last if order == "void-last" else (last + 1) % (classes + 1), np.uint8)
