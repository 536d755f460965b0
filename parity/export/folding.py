"""Constant folding: evaluating what a jaxpr computes from weights and numbers alone.

The table holds primitives for which NumPy gives the same bits without a compiler; all others are
left to JAX. An array that only repeats another along an axis is a view with stride 0 there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def fold(eqn: Any, inputs: list[Any]) -> list[Any]:
    """Return the outputs of an equation of constants."""
    rule = TABLE.get(eqn.primitive.name)
    if rule is not None:
        return [rule(eqn, *inputs)]
    found = eqn.primitive.bind(*inputs, **eqn.params)
    return [np.asarray(x) for x in (found if eqn.primitive.multiple_results else [found])]


def narrowed(array: np.ndarray) -> np.ndarray:
    """Return the array with length 1 along axes that only repeat it; it broadcasts back."""
    repeats = (s == 0 and n > 1 for s, n in zip(array.strides, array.shape, strict=True))
    return array[tuple(slice(0, 1) if r else slice(None) for r in repeats)]


def _broadcast(eqn: Any, array: np.ndarray) -> np.ndarray:
    shape = [n if isinstance(n, int) else 1 for n in eqn.params["shape"]]  # a batch: broadcasts
    ones = [1] * len(shape)
    for n, axis in zip(array.shape, eqn.params["broadcast_dimensions"], strict=True):
        ones[axis] = n
    return np.broadcast_to(array.reshape(ones), shape)


def _iota(eqn: Any) -> np.ndarray:
    shape, axis = eqn.params["shape"], eqn.params["dimension"]
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
    "reshape": lambda eqn, x: x.reshape(eqn.params["new_sizes"]),
    "rev": lambda eqn, x: np.flip(x, eqn.params["dimensions"]),
    "sqrt": _plain(np.sqrt),
    "squeeze": lambda eqn, x: np.squeeze(x, eqn.params["dimensions"]),
    "sub": _plain(np.subtract),
    "transpose": lambda eqn, x: np.transpose(x, eqn.params["permutation"]),
}
