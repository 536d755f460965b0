"""In which orders of their axes two arrays hold the same numbers."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from parity.ladder.tolerances import norm

Order = tuple[int, ...]  # the first array's axes, as they stand in the second


def fitting(one: Sequence[int], other: Sequence[int]) -> list[Order]:
    """Return the orders of a shape's axes that give the other shape; the unchanged one first."""
    if sorted(one) != sorted(other):
        return []
    orders = itertools.permutations(range(len(one)))
    return [axes for axes in orders if tuple(one[axis] for axis in axes) == tuple(other)]


def closest(
    a: np.ndarray, b: np.ndarray, orders: Sequence[Order], enough: float
) -> tuple[Order, float]:
    """Return the order in which two arrays are nearest to each other, and their distance.

    Args:
        a: The array whose axes are moved.
        b: The other.
        orders: Those to try, of which there is one at least.
        enough: The distance at which no other order is tried.
    """
    found, best = orders[0], float("inf")
    for axes in orders:
        distance = norm(a.transpose(axes) - b)
        if distance < best:
            found, best = axes, distance
        if distance <= enough:
            break
    return found, best


def near(a: np.ndarray, b: np.ndarray, orders: Sequence[Order], limit: float) -> list[Order]:
    """Return the orders that are about as good as the best: several of symmetrical arrays.

    Args:
        a: The array whose axes are moved.
        b: The other.
        orders: Those to try.
        limit: How far rounding moves the arrays, relative to the first's norm.
    """
    if len(orders) < 2:
        return list(orders)
    distances = {axes: norm(a.transpose(axes) - b) for axes in orders}
    most = 2 * min(distances.values()) + limit * norm(a)
    return [axes for axes, distance in distances.items() if not distance > most]  # NaN: any


def commonest(
    found: Iterable[Sequence[Order]], others: Iterable[Sequence[Order]] = ()
) -> dict[int, Order]:
    """Return one order per number of axes: the one that most arrays have, else the first's.

    Args:
        found: Of each array, the orders that it may have; several of a symmetrical one.
        others: The same of arrays that are asked where these leave it open.
    """
    votes: dict[int, Counter[Order]] = defaultdict(Counter)
    for orders in found:
        for axes in orders:
            votes[len(axes)][axes] += 1
    more = Counter(axes for orders in others for axes in orders)
    return {
        count: max(each, key=lambda axes: (each[axes], more[axes])) for count, each in votes.items()
    }
