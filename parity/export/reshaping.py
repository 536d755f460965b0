"""Translation of primitives that reorder or reshape axes; most move nothing in memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.export.graph import unsupported

if TYPE_CHECKING:
    from parity.export.from_jax import Lowering, Shape, Tensor

Group = tuple[range, range]

CHANNELS_FIRST = (0, 3, 1, 2)  # (N, H, W, C) as ONNX stores it


def transpose(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    (x,), order = inputs, list(eqn.params["permutation"])
    return low.tensor(x.name, tuple(order.index(i) for i in x.axes), eqn.outvars[0].aval)


def squeeze(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    return without(low, inputs[0], tuple(eqn.params["dimensions"]))


def without(low: Lowering, x: Tensor, dropped: Sequence[int]) -> Tensor:
    """Return a value without axes of one element."""
    if not dropped:
        return x
    at = low.graph.integers(*sorted(x.axes.index(i) for i in dropped))
    left = [i for i in range(len(x.shape)) if i not in dropped]
    axes = tuple(left.index(i) for i in x.axes if i not in dropped)
    shape = tuple(x.shape[i] for i in left)
    return type(x)(low.graph.one("Squeeze", x.name, at), axes, shape, x.dtype)


def reshape(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    """Split and merge axes where they are stored, if merged axes are stored side by side.

    Otherwise they are moved together first, and four axes to channels first.
    """
    (x,), aval = inputs, eqn.outvars[0].aval
    target = low.tensor("", (), aval).shape
    if _same_images(eqn.invars[0].aval.shape, aval.shape):
        found = list(groups(x.shape, target))
    elif target.count(None) == 1:  # images become rows, or rows images
        found = [(range(len(x.shape)), range(len(target)))]
    else:
        raise unsupported(eqn, f"shapes {eqn.invars[0].aval.shape} and {aval.shape}")
    if not all(_adjacent(x, old) for old, _ in found):
        first = [found[i] for i in (CHANNELS_FIRST if len(found) == 4 else range(len(found)))]
        axes = tuple(i for old, _ in first for i in old)
        x = type(x)(low.stored(x, axes), axes, x.shape, x.dtype)
    places, last = [], -1
    for old, _ in found:  # what is new is stored after what it follows
        last = x.axes.index(old[0]) if old else last
        places.append(last)
    order = sorted(range(len(found)), key=places.__getitem__)
    axes = tuple(i for n in order for i in found[n][1])
    return low.tensor(reshaped(low, x.name, [target[i] for i in axes]), axes, aval)


def _same_images(old: Sequence[Any], new: Sequence[Any]) -> bool:
    """Return whether the axis of the batch, if there is one, is kept."""
    before = [[i for i, n in enumerate(known(shape)) if n is None] for shape in (old, new)]
    if before == [[], []]:
        return True
    if [len(places) for places in before] != [1, 1]:
        return False
    (i,), (j,) = before
    return old[i] == new[j] and math.prod(old[:i]) == math.prod(new[:j])


def reshaped(low: Lowering, name: str, shape: Sequence[int | None]) -> str:
    """Return a Reshape; the batch is what is left."""
    return low.graph.one("Reshape", name, low.graph.integers(*(n or -1 for n in shape)))


def groups(old: Shape, new: Shape) -> Iterator[Group]:
    """Yield the smallest pairs of axis ranges of the old and new shape with equal products."""
    i = j = 0
    while i < len(old) or j < len(new):
        a, b, left, right = i, j, 1, 1
        if None in old[i : i + 1] and None in new[j : j + 1]:  # the batch stays the batch
            i, j = i + 1, j + 1
        else:
            while i == a or left != right or j == b:
                if i < len(old) and old[i] is not None and (left <= right or j >= len(new)):
                    left, i = left * (old[i] or 1), i + 1
                elif j < len(new) and new[j] is not None:
                    right, j = right * (new[j] or 1), j + 1
                else:
                    break
            if (i, j) == (a, b):
                raise ValueError(f"{old} is not as large as {new}")
        yield range(a, i), range(b, j)


def _adjacent(x: Tensor, axes: range) -> bool:
    places = [x.axes.index(i) for i in axes]
    return all(q == p + 1 for p, q in itertools.pairwise(places))


def broadcast(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    """New axes are stored after the one they follow, so that they can merge with it."""
    (x,), aval = inputs, eqn.outvars[0].aval
    shape = low.tensor("", (), aval).shape
    given = list(eqn.params["broadcast_dimensions"])
    axes = [given[i] for i in x.axes]
    for axis in range(len(shape)):
        if axis not in given:
            axes.insert(axes.index(axis - 1) + 1 if axis else 0, axis)
    before = [x.shape[given.index(i)] if i in given else 1 for i in axes]
    after = [shape[i] for i in axes]
    name = x.name if len(before) == len(x.shape) else reshaped(low, x.name, before)
    if before != after:
        name = low.graph.one(
            "Expand", name, low.graph.integers(*(1 if n is None else n for n in after))
        )
    return low.tensor(name, tuple(axes), aval)


def stack(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    """Translate a stack; the new axis is stored after the one it follows."""
    axis, aval = eqn.params["axis"], eqn.outvars[0].aval
    first = next(v for v in inputs if not isinstance(v, np.ndarray))
    axes = [i + (i >= axis) for i in first.axes]
    place = axes.index(axis - 1) + 1 if axis else 0
    axes.insert(place, axis)
    at = low.graph.integers(place)
    shape = eqn.invars[0].aval.shape
    names = [low.graph.one("Unsqueeze", low.whole(v, first.axes, shape), at) for v in inputs]
    return low.tensor(low.graph.one("Concat", *names, axis=place), tuple(axes), aval)


def known(shape: Sequence[Any]) -> Shape:
    """Return a shape of JAX's, the batch as None."""
    return tuple(n if isinstance(n, int) else int(n) if _fixed(n) else None for n in shape)


def _fixed(n: Any) -> bool:
    try:
        int(n)
    except Exception:  # whatever a symbolic number raises
        return False
    return True
