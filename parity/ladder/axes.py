"""Permutations of axes that make one tensor of another."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from parity.capture.records import transposed
from parity.spec.errors import InputError

Axes = tuple[int, ...] | None  # None: as they are
SAME = 1e-9  # relative difference of one activation's values in float64


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


def permutation(reference: np.ndarray, port: np.ndarray) -> tuple[int, ...] | None:
    """Return the axes of `reference` that make it `port`, None if there are none.

    Where one side has axes of length 1 that the other lacks, the axes are those of `rearranged`.
    """
    if sizes(reference) != sizes(port) or reference.dtype.kind != port.dtype.kind:
        return None
    reference, port = np.asarray(reference), np.asarray(port)
    scale = float(np.sqrt(np.square(reference, dtype=np.float64).sum()))
    if not np.isclose(scale, np.sqrt(np.square(port, dtype=np.float64).sum()), rtol=SAME):
        return None
    # Where there are as many, axes of length 1 are permuted like others.
    alike = reference.ndim == port.ndim
    kept = [i for i in range(reference.ndim) if alike or reference.shape[i] != 1]
    for order in itertools.permutations(kept):
        axes = order if alike else with_units(order, reference, port)
        if axes is None:
            continue
        moved = rearranged(reference, axes)
        if moved.shape == port.shape:
            diff = np.sqrt(np.square(moved.astype(np.float64) - port).sum())
            if diff <= SAME * scale:
                return axes
    return None


def with_units(
    order: tuple[int, ...], reference: np.ndarray, port: np.ndarray
) -> tuple[int, ...] | None:
    """Axes for `rearranged` that leave out the reference's axes of length 1 and add the port's."""
    kept = [i for i in order if reference.shape[i] != 1]
    if [reference.shape[i] for i in kept] != [n for n in port.shape if n != 1]:
        return None
    left = iter(kept)
    return tuple(-1 if n == 1 else next(left) for n in port.shape)


def sizes(array: np.ndarray) -> tuple[int, ...]:
    """Return the lengths of an array's axes but for those of length 1, sorted."""
    return tuple(sorted(n for n in array.shape if n != 1))
