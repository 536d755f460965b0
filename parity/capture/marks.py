"""Marks in a traced program: where a layer's call begins and ends, whatever runs around it.

A mark is a primitive that returns its operands. Unlike a value kept from inside a trace, it goes
through `jit`, `checkpoint`, `vmap`, `scan` and `cond` with the program that it stands in, so that
`parity.capture.interpreter` finds every call in the jaxpr afterwards.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from parity.capture.records import is_array, leaves, mapped

BEGIN, END = "begin", "end"

mark_p = Primitive("parity_mark")
mark_p.multiple_results = True
mark_p.def_impl(lambda *arrays, call, place: list(arrays))
mark_p.def_abstract_eval(lambda *arrays, call, place: list(arrays))


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, call: int, place: str) -> Any:
    return mark_p.bind(*primals, call=call, place=place), list(tangents)


def _batched(arrays: Sequence[Any], axes: Sequence[Any], *, call: int, place: str) -> Any:
    """Move the mapped axis of each array to the front."""
    mapped_ = [axis is not None for axis in axes]
    moved = [
        jax.numpy.moveaxis(a, axis, 0) if m else a
        for a, axis, m in zip(arrays, axes, mapped_, strict=True)
    ]
    found = mark_p.bind(*moved, call=call, place=place)
    return found, [0 if m else None for m in mapped_]


ad.primitive_jvps[mark_p] = _jvp
batching.primitive_batchers[mark_p] = _batched
mlir.register_lowering(mark_p, lambda _, *arrays, call, place: list(arrays))


@dataclasses.dataclass(frozen=True)
class Site:
    """A call of a layer as it stands in the program; a loop's body runs it many times.

    Attributes:
        layer: The layer's dotted name.
        args: Its positional arguments, with abstract arrays.
        kwargs: Its keyword arguments, with abstract arrays.
        module: The layer itself, where its framework makes it while it runs.
    """

    layer: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    module: Any = None


# The calls by the number that their marks carry. They outlive one trace: `jit` keeps what it has
# traced, and gives it, marks and all, to whoever calls the same function again.
SITES: dict[int, Site] = {}
NUMBERS = itertools.count()


@dataclasses.dataclass
class Marker:
    """Marks the calls of layers while a network is traced.

    Attributes:
        running: The layers that have begun and not returned, innermost last.
    """

    running: list[str] = dataclasses.field(default_factory=list)

    def around(
        self, layer: str, call: Callable[..., Any], args: Any, kwargs: Any, module: Any = None
    ) -> Any:
        """Call a layer, with marks on what it is fed and on what it returns."""
        number = next(NUMBERS)
        args, kwargs = marked((args, kwargs), number, BEGIN)
        SITES[number] = Site(layer, abstract(args), abstract(kwargs), module)
        self.running.append(layer)
        outputs = marked(call(*args, **kwargs), number, END)
        self.running.pop()
        return outputs


def marked(tree: Any, call: int, place: str) -> Any:
    """Return the tree with its JAX arrays marked; others, such as NumPy's, are constants.

    The marks hold them in the order of `records.leaves`, which both sides of a comparison share.
    """
    values, structure = jax.tree.flatten(tree, is_leaf=_whole)
    order = [
        i
        for i in leaves(jax.tree.unflatten(structure, range(len(values))))
        if isinstance(values[i], jax.Array)
    ]
    found = mark_p.bind(*(values[i] for i in order), call=call, place=place)
    for i, array in zip(order, found, strict=True):
        values[i] = array
    return jax.tree.unflatten(structure, values)


def _whole(node: Any) -> bool:
    """Return whether a node is a layer or one of its variables, which are no arguments' arrays."""
    return isinstance(node, nnx.Module | nnx.Variable)


def abstract(tree: Any) -> Any:
    """Replace arrays by their shapes and dtypes; other leaves stay."""
    return mapped(
        tree, lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_array(leaf) else leaf
    )
