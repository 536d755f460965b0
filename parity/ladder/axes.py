"""Permutations of axes that make one tensor of another."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from parity.capture.records import transposed
from parity.spec.errors import InputError

Axes = tuple[int, ...] | None  # None: as they are


def rearranged(array: np.ndarray, axes: Axes) -> np.ndarray:
    """Permute an array's axes, and leave out or add axes of length 1.

    Args:
        array: The array.
        axes: The axes of the result: the array's, of which those of length 1 may be left out, and
            -1 for a new one of length 1.
    """
    if axes is None or sorted(axes) == list(range(array.ndim)):
        return transposed(array, axes)
    kept = [axis for axis in axes if axis >= 0]
    order = kept + [axis for axis in range(array.ndim) if axis not in kept]
    shape = [array.shape[axis] if axis >= 0 else 1 for axis in axes]
    return np.asarray(array).transpose(order).reshape(shape)


def equal_axes(
    source: np.ndarray, target: np.ndarray, same: Callable[[np.ndarray, np.ndarray], bool]
) -> Axes | bool:
    """Return the permutation that makes `target` of `source`, False if there is none."""
    identity = tuple(range(source.ndim))
    if source.ndim != target.ndim:
        return False
    for axes in itertools.permutations(identity):
        moved = source.transpose(axes)
        if moved.shape == target.shape and same(moved, target):
            return None if axes == identity else axes
    return False


def usual_axes(source: np.ndarray, target: np.ndarray) -> Axes | bool:
    """Return the usual permutation of a kernel, or none, where it makes `target`'s shape."""
    identity = tuple(range(source.ndim))
    if source.ndim != target.ndim:
        return False
    usual = {4: (2, 3, 1, 0), 2: (1, 0)}.get(source.ndim, identity)
    for axes in (usual, identity):
        if source.transpose(axes).shape == target.shape:
            return None if axes == identity else axes
    return False


def refuse_axes(what: str, axes: object, ndim: int) -> None:
    """Refuse what is no permutation of so many axes, nor None.

    Raises:
        InputError: It names `what` they are of.
    """
    if axes is not None and not (
        isinstance(axes, tuple | list) and sorted(axes) == list(range(ndim))
    ):
        raise InputError(f"{what}: {axes!r} is no permutation of {ndim} axes")
