"""Constant folding: evaluating what a jaxpr computes from weights and numbers alone.

The table holds primitives for which NumPy gives the same bits without a compiler; all others are
left to JAX. An array that only repeats another along an axis is a view with stride 0 there. A batch
that is left open is taken as one image, over which such an array is repeated where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from parity.export.batches import is_open, of_images
from parity.export.graph import unsupported

EACH = {  # primitives whose element, of constants that only repeat along an axis, repeats there
    *("abs", "add", "and", "broadcast_in_dim", "ceil", "clamp", "convert_element_type", "copy"),
    *("cos", "div", "eq", "erf", "exp", "exp2", "floor", "ge", "gt", "integer_pow", "is_finite"),
    *("le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow"),
    *("reduce_max", "reduce_min", "rem", "rev", "round", "rsqrt", "select_n", "sign", "sin"),
    *("sqrt", "square", "squeeze", "stack", "stop_gradient", "sub", "tanh", "transpose", "xor"),
}
ALONG = {  # primitive -> the parameter that says along which axes it is not so
    **{"argmax": "axes", "argmin": "axes", "concatenate": "dimension", "cumsum": "axis"},
    **{"iota": "dimension", "reduce_prod": "axes", "reduce_sum": "axes", "split": "axis"},
}


def fold(eqn: Any, inputs: list[Any]) -> list[Any]:
    """Return the outputs of an equation of constants."""
    if not _alike(eqn, inputs):
        raise unsupported(eqn, "constants that may differ from image to image")
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


def _alike(eqn: Any, inputs: Sequence[np.ndarray]) -> bool:
    """Return whether an equation of constants makes the same of each image of an open batch."""
    shapes = [v.aval.shape for v in (*eqn.invars, *eqn.outvars)]
    name, p = eqn.primitive.name, eqn.params
    if not is_open(tuple(shapes)) or name in EACH:
        return True
    whole, made = shapes[0], shapes[-1]
    used: set[int] = set()
    d = p.get("dimension_numbers")
    if name in ALONG:
        axes = p[ALONG[name]]
        used = set(axes) if isinstance(axes, tuple) else {axes}
    elif name == "reshape":
        kept = whole[:1] == made[:1] and not is_open((whole[1:], made[1:]))
        return kept or inputs[0].size == 0 or bool((inputs[0] == inputs[0].flat[0]).all())
    elif name in ("slice", "dynamic_slice", "dynamic_update_slice"):
        part = shapes[1] if name == "dynamic_update_slice" else made
        used = {i for i, (a, b) in enumerate(zip(whole, part, strict=True)) if a != b}
    elif name == "pad":
        used = {i for i, side in enumerate(p["padding_config"]) if side != (0, 0, 0)}
    elif name == "gather" and not is_open(shapes[1]):
        used = {*d.start_index_map, *d.collapsed_slice_dims, *d.operand_batching_dims}
    elif name.startswith("scatter") and not is_open(shapes[1]):
        used = {*d.scatter_dims_to_operand_dims, *d.inserted_window_dims, *d.operand_batching_dims}
    elif name == "dot_general":
        (left, right), _ = d
        return not is_open((*(whole[i] for i in left), *(shapes[1][i] for i in right)))
    else:
        return False
    return not is_open(tuple(whole[i] for i in used))


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
