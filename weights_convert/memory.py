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
