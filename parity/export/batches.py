"""The number of images as a value: what a jaxpr computes from a batch that is left open.

JAX writes it as a symbolic number, `b`. Shapes that ONNX needs whole, and rows such as those of
`jnp.arange(images.shape[0])`, are computed from the shape of the graph's input.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax import export as jax_export
from jax.errors import InconclusiveDimensionOperation
from onnx import TensorProto, helper

from parity.spec.errors import InputError

if TYPE_CHECKING:
    from parity.export.from_jax import Lowering, Tensor


@contextlib.contextmanager
def any_number() -> Iterator[None]:
    """Say in one line that a network cannot be traced without knowing how many images there are.

    Raises:
        InputError: It uses a symbolic number as one that is known.
    """
    try:
        yield
    except (InconclusiveDimensionOperation, TypeError) as error:
        first = str(error).partition("\n")[0]
        message = f"the JAX network cannot be traced for any number of images: {first}"
        raise InputError(message) from error


def of_images(value: Any, images: int) -> Any:
    """Return a parameter of an equation with so many images in the place of the batch."""
    if type(value) is tuple:
        return tuple(of_images(v, images) for v in value)
    return int(value._evaluate({"b": images})) if hasattr(value, "_evaluate") else value


def is_open(value: Any) -> bool:
    """Return whether a number, or one of several, depends on the batch."""
    if type(value) is tuple:
        return any(map(is_open, value))
    return hasattr(value, "_evaluate")  # b // 3 does, too, which is 0 of one image and of two


def lowered(low: Lowering, eqn: Any) -> Tensor | None:
    """Return what an equation makes of the batch alone; None if it makes nothing of it."""
    rule = TABLE.get(eqn.primitive.name)
    return None if rule is None else rule(low, eqn)


def dims(low: Lowering, shape: Sequence[Any]) -> str:
    """Return the name of a shape, as a tensor of integers."""
    if not is_open(tuple(shape)):
        return low.graph.integers(*of_images(tuple(shape), 1))
    parts = [_number(low, n) if is_open(n) else low.graph.integers(int(n)) for n in shape]
    return parts[0] if len(parts) == 1 else low.graph.one("Concat", *parts, axis=0)


def _number(low: Lowering, n: Any) -> str:
    """Return the name of a tensor of one element: a multiple of the batch, and a constant."""
    one, two = (of_images(n, images) for images in (1, 2))
    (b,) = jax_export.symbolic_shape("b", scope=n.scope)
    if n != (two - one) * b + (2 * one - two):
        raise InputError(f"no translation to ONNX for a length of {n}, where b is the batch")
    name = low.graph.one("Shape", "input", start=0, end=1)
    if two - one != 1:
        name = low.graph.one("Mul", name, low.graph.integers(two - one))
    if rest := 2 * one - two:
        name = low.graph.one("Add", name, low.graph.integers(rest))
    return name


def number(low: Lowering, eqn: Any) -> Tensor:
    """A length that depends on the batch, as a scalar."""
    aval = eqn.outvars[0].aval
    name = low.graph.one("Squeeze", dims(low, (eqn.params["dim"],)), low.graph.integers(0))
    return low.tensor(_cast(low, name, aval.dtype), (), aval)


def row(low: Lowering, eqn: Any) -> Tensor | None:
    """Ascending numbers along an axis as long as the batch, or a multiple of it."""
    shape, axis, aval = eqn.params["shape"], eqn.params["dimension"], eqn.outvars[0].aval
    if not is_open(shape[axis]):
        return None
    name = _cast(low, numbers(low, shape, axis), aval.dtype)
    return low.tensor(name, tuple(range(len(shape))), aval)


def numbers(low: Lowering, shape: Sequence[Any], axis: int) -> str:
    """Return the name of an array of ascending integers along an axis."""
    stop = low.graph.one("Squeeze", dims(low, (shape[axis],)), low.graph.integers(0))
    ends = [low.graph.constant(np.asarray(n, np.int64)) for n in (0, 1)]
    name = low.graph.one("Range", ends[0], stop, ends[1])
    if len(shape) == 1:
        return name
    ones = low.graph.integers(*(-1 if i == axis else 1 for i in range(len(shape))))
    return low.graph.one("Expand", low.graph.one("Reshape", name, ones), dims(low, shape))


def _cast(low: Lowering, name: str, dtype: Any) -> str:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return name if kind == TensorProto.INT64 else low.graph.one("Cast", name, to=kind)


TABLE: dict[str, Callable[[Lowering, Any], Tensor | None]] = {"dim_as_value": number, "iota": row}
