"""Constant folding: evaluating what a jaxpr computes from weights and numbers alone.

The table holds primitives for which NumPy gives the same bits without a compiler; all others are
left to JAX. An array that only repeats another along an axis is a view with stride 0 there. A batch
that is left open is taken as one image, over which such an array is repeated where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from parity.export.batches import of_images


def fold(eqn: Any, inputs: list[Any]) -> list[Any]:
    """Return the outputs of an equation of constants."""
    rule = TABLE.get(eqn.primitive.name)
    if rule is not None:
        return [rule(eqn, *inputs)]
    return [np.asarray(x) for x in bound(eqn, inputs)]


def bound(eqn: Any, inputs: Sequence[Any]) -> Sequence[Any]:
    """Return the outputs of an equation as JAX computes them, for one image."""
    params = {key: of_images(value, 1) for key, value in eqn.params.items()}
    if eqn.primitive.name == "dim_as_value":  # which JAX has a value for while it lowers alone
        return [np.asarray(params["dim"], eqn.outvars[0].aval.dtype)]
    found = eqn.primitive.bind(*inputs, **params)
    return found if eqn.primitive.multiple_results else [found]


def narrowed(array: np.ndarray) -> np.ndarray:
    """Return the array with length 1 along axes that only repeat it; it broadcasts back."""
    repeats = (s == 0 and n > 1 for s, n in zip(array.strides, array.shape, strict=True))
    return array[tuple(slice(0, 1) if r else slice(None) for r in repeats)]


def _broadcast(eqn: Any, array: np.ndarray) -> np.ndarray:
    shape = of_images(tuple(eqn.params["shape"]), 1)
    ones = [1] * len(shape)
    for n, axis in zip(array.shape, eqn.params["broadcast_dimensions"], strict=True):
        ones[axis] = n
    return np.broadcast_to(array.reshape(ones), shape)


def _iota(eqn: Any) -> np.ndarray:
    shape, axis = of_images(tuple(eqn.params["shape"]), 1), eqn.params["dimension"]
    ones = [n if i == axis else 1 for i, n in enumerate(shape)]
    row = np.arange(shape[axis], dtype=eqn.params["dtype"])
    return np.broadcast_to(row.reshape(ones), shape)


def _divide(eqn: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f":
        return np.divide(a, b)
    return np.asarray(eqn.primitive.bind(a, b, **eqn.params))  # rounds towards 0


def _plain(function: Callable) -> Callable:
    return lambda eqn, *inputs: np.asarray(function(*inputs))


TABLE: dict[str, Callable] = {
    "add": _plain(np.add),
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda eqn, *parts: np.concatenate(parts, eqn.params["dimension"]),
    "convert_element_type": lambda eqn, x: x.astype(eqn.params["new_dtype"]),
    "div": _divide,
    "iota": _iota,
    "mul": _plain(np.multiply),
    "reshape": lambda eqn, x: x.reshape(of_images(eqn.params["new_sizes"], 1)),
    "rev": lambda eqn, x: np.flip(x, eqn.params["dimensions"]),
    "sqrt": _plain(np.sqrt),
    "squeeze": lambda eqn, x: np.squeeze(x, eqn.params["dimensions"]),
    "sub": _plain(np.subtract),
    "transpose": lambda eqn, x: np.transpose(x, eqn.params["permutation"]),
}
