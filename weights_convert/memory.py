"""Whole networks in memory: laid out, compared, on every core. Loads no framework.

NumPy leaves Python's lock alone while it copies and compares, and a large transposition is slower
than a disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")
Made = TypeVar("Made")


def each(function: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
    """A function of each item, in their order."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(function, items))


def contiguous(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Name -> array in C order; the same array where it lies so already."""
    made = each(lambda array: np.array(array, order="C", copy=None), arrays.values())
    return dict(zip(arrays, made, strict=True))


def rounded(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Floating-point numbers in another precision, rounded to nearest once."""
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
    """The names under which the two do not hold the same bits, or one holds nothing."""
    names = [*a, *(name for name in b if name not in a)]
    same = each(lambda name: name in a and name in b and _same(a[name], b[name]), names)
    return [name for name, equal in zip(names, same, strict=True) if not equal]


def as_bytes(array: np.ndarray) -> np.ndarray:
    """(bytes,) uint8 of an array in C order: a view where it lies so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    alike = (a.dtype, a.shape) == (b.dtype, b.shape)
    return alike and bool((as_bytes(a) == as_bytes(b)).all())
