"""Translation of a JAX network's jaxpr to an ONNX graph, equation by equation.

JAX's maps are (N, H, W, C) and ONNX's operators want (N, C, H, W). So a value is a tensor and the
order in which its axes are stored; a transposition only changes that order, and one is carried out
only where an operator needs another. Values that depend on no input are computed here, with NumPy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax import export as jax_export
from jax.errors import InconclusiveDimensionOperation
from jax.extend import core

from parity.export import agreement, batches, folding, functions, primitives
from parity.export.graph import BATCH, Graph, unsupported
from parity.export.reshaping import CHANNELS_FIRST, known
from parity.spec.errors import InputError

Shape = tuple[Any, ...]  # of integers, and None where the batch is
Axes = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A value that depends on the input.

    Attributes:
        name: Its name in the graph.
        axes: The stored tensor's axis i is this value's axis axes[i].
        shape: The value's shape in JAX.
        dtype: Its NumPy dtype.
        windows: For the indices of a max-pool: the names of ONNX's indices and of the pooled map.
    """

    name: str
    axes: Axes
    shape: Shape
    dtype: np.dtype
    windows: tuple[str, str] | None = None

    @property
    def stored_shape(self) -> Shape:
        return tuple(self.shape[i] for i in self.axes)


Value = Tensor | np.ndarray


def graph_of(
    network: Callable[[Any], Any], size: tuple[int, int], names: Sequence[str], batch: int | None
) -> onnx.ModelProto:
    """Translate a network to an ONNX graph.

    Args:
        network: Maps images (N, H, W, 3) to an array or several, (N, H', W', C) or (N, C).
        size: Height and width of the images.
        names: Names of the outputs.
        batch: Number of images; None leaves it open.

    Returns:
        A model from `input`, (N, 3, H, W) float32, to the outputs, (N, C, H', W') or (N, C).

    Raises:
        InputError: The network uses a primitive that has no translation, or needs to know how many
            images there are.
    """
    (n,) = jax_export.symbolic_shape("b")
    with batches.any_number():
        traced = jax.make_jaxpr(network)(jax.ShapeDtypeStruct((n, *size, 3), jnp.float32))
    lowering = Lowering(Graph())
    image = Tensor("input", CHANNELS_FIRST, (None, *size, 3), np.dtype(np.float32))
    found = lowering.run(traced, [image])
    outputs = {}
    for name, value in zip(names, found, strict=True):
        axes = CHANNELS_FIRST if len(value.shape) == 4 else tuple(range(len(value.shape)))
        shape = [value.shape[i] or batch or BATCH for i in axes]
        outputs[name] = lowering.stored(value, axes), shape
    return lowering.graph.model({"input": (batch or BATCH, 3, *size)}, outputs)


class Lowering:
    """Walks a jaxpr and adds to a graph what it computes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def run(self, closed: core.ClosedJaxpr, inputs: Sequence[Value]) -> list[Value]:
        """Translate a jaxpr, and return its outputs.

        Raises:
            InputError: As for `graph_of`.
        """
        jaxpr = closed.jaxpr
        values: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
        values |= zip(jaxpr.constvars, (np.asarray(c) for c in closed.consts), strict=True)

        def read(atom: Any) -> Value:
            if isinstance(
                atom, core.Literal
            ):  # a number of Python's is wider than what it stands for
                return np.asarray(atom.val, atom.aval.dtype)  # type: ignore[attr-defined] # of arrays
            return values[atom]

        for eqn in jaxpr.eqns:
            outputs = self.equation(eqn, [read(v) for v in eqn.invars])
            values |= zip(eqn.outvars, outputs, strict=True)
        return [read(v) for v in jaxpr.outvars]

    def equation(self, eqn: Any, inputs: list[Value]) -> list[Value]:
        """Return the outputs of one equation."""
        called = agreement.called(eqn)
        if called is not None:
            given = functions.lowered(self, called, inputs)
            return self.run(called, inputs) if given is None else given
        name = eqn.primitive.name
        if all(0 in known(v.aval.shape) for v in eqn.outvars):  # of no elements: alike for all
            shapes = [batches.of_images(tuple(v.aval.shape), 1) for v in eqn.outvars]
            return [np.zeros(s, v.aval.dtype) for s, v in zip(shapes, eqn.outvars, strict=True)]
        constant = all(isinstance(v, np.ndarray) for v in inputs)
        if not constant and name not in primitives.TABLE:
            raise InputError(
                f"the network uses JAX's primitive {name!r}, which has no translation to ONNX:"
                f" expected some of {', '.join(sorted(primitives.TABLE))}"
            )
        try:
            if constant:
                counted = batches.lowered(self, eqn)
                return folding.fold(eqn, inputs) if counted is None else [counted]
            found = primitives.TABLE[name](self, eqn, inputs)
        except InputError:
            raise
        except InconclusiveDimensionOperation as error:
            raise unsupported(eqn, "lengths that depend on the batch") from error
        except (IndexError, KeyError, TypeError, ValueError) as error:  # another form than it reads
            raise unsupported(eqn, f"the parameters {sorted(eqn.params)}") from error
        return found if isinstance(found, list) else [found]

    def stored(self, value: Value, axes: Axes) -> str:
        """Return the name of a tensor that holds a value with its axes in this order."""
        if isinstance(value, np.ndarray):
            return self.graph.constant(folding.narrowed(value).transpose(axes))
        if value.axes == axes:
            return value.name
        order = [value.axes.index(i) for i in axes]
        return self.graph.one("Transpose", value.name, perm=order)

    def whole(self, value: Value, axes: Axes, shape: Sequence[Any]) -> str:
        """Return the name of a tensor as `stored` does, in which a constant is written out.

        Args:
            value: What it holds.
            axes: Their order.
            shape: The value's in JAX; of a constant, the batch is one image.
        """
        name = self.stored(value, axes)
        if isinstance(value, np.ndarray):
            wanted = tuple(shape[i] for i in axes)
            if folding.narrowed(value).transpose(axes).shape != wanted:
                return self.graph.one("Expand", name, batches.dims(self, wanted))
        return name

    def tensor(self, name: str, axes: Axes, aval: Any) -> Tensor:
        """Return a value with the shape and dtype of an equation's output."""
        return Tensor(name, axes, known(aval.shape), np.dtype(aval.dtype))
