"""Transposing and comparing whole networks in memory, on all cores. Imports no framework.

NumPy releases Python's lock while it copies and compares, and a large transposition is slower than
a disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

BLOCK = 1 << 18  # numbers compared at a time: what NumPy makes of them stays in the cache
AHEAD = 2  # arrays laid out before they are written

Item = TypeVar("Item")
Made = TypeVar("Made")


def each(function: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
    """Return a function's results for each item, in order."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(function, items))


def ahead(
    function: Callable[[Item], Made], items: Iterable[Item], count: int = AHEAD
) -> Iterator[Made]:
    """Yield a function's results in order, `count` of them computed while earlier ones are used."""
    with ThreadPoolExecutor(count) as pool:
        waiting: deque[Future[Made]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def contiguous(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Name -> array in C order; the same array where it lies so already."""
    made = each(lambda array: np.array(array, order="C", copy=None), arrays.values())
    return dict(zip(arrays, made, strict=True))


def rounded(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Cast floating-point numbers to another precision, rounded to nearest once."""
    if (array.dtype.name, dtype.name) != ("float64", "bfloat16"):
        return array.astype(dtype)
    # `ml_dtypes` goes by float32, and rounds twice. A float32 cut off, with its last bit set where
    # anything was lost, is never a tie that was none.
    near = np.array(array, np.float32)
    bits = near.view(np.uint32)
    lost, beyond = near != array, np.abs(near) > np.abs(array)
    bits -= beyond
    bits |= lost
    return near.astype(dtype)


def different(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names under which the two do not hold equal bits, or one holds nothing."""
    names = [*a, *(name for name in b if name not in a)]
    same = each(lambda name: name in a and name in b and _same(a[name], b[name]), names)
    return [name for name, equal in zip(names, same, strict=True) if not equal]


def as_bytes(array: np.ndarray) -> np.ndarray:
    """(bytes,) uint8 of an array in C order: a view where it lies so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    bits = f"u{a.itemsize}"  # by which NaN is NaN, and -0 is not 0
    return _equal(a.view(bits), b.view(bits))


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether integer arrays are equal, block by block, without large temporaries."""
    if a.size <= BLOCK:
        return bool((a == b).all())
    if len(a) == 1:
        return _equal(a[0], b[0])
    rows = max(1, len(a) * BLOCK // a.size)
    return all(_equal(a[i : i + rows], b[i : i + rows]) for i in range(0, len(a), rows))
