"""Translation of primitives that read or write places of an array, by number."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from parity.export import batches, reshaping
from parity.export.graph import unsupported

if TYPE_CHECKING:
    from parity.export.from_jax import Axes, Lowering, Tensor, Value


def cut(low: Lowering, x: Tensor, axis: int, start: int, stop: int, step: int) -> Tensor:
    """Part of one axis."""
    whole = x.shape[axis]
    if (start, step) == (0, 1) and stop == whole:
        return x
    ends = [low.graph.integers(n) for n in (start, stop, x.axes.index(axis), step)]
    shape = (*x.shape[:axis], len(range(start, stop, step)), *x.shape[axis + 1 :])
    return type(x)(low.graph.one("Slice", x.name, *ends), x.axes, shape, x.dtype)


def slices(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    (x,), p = inputs, eqn.params
    steps = p["strides"] or (1,) * len(x.shape)
    ranges = zip(p["start_indices"], p["limit_indices"], steps, strict=True)
    for axis, (start, stop, step) in enumerate(ranges):
        whole = (0, eqn.invars[0].aval.shape[axis], 1)
        if (start, stop, step) == whole:
            continue
        if not batches.is_open((start, stop)):
            x = cut(low, x, axis, int(start), int(stop), int(step))
            continue
        ends = [batches.dims(low, (n,)) for n in (start, stop)]
        ends += [low.graph.integers(n) for n in (x.axes.index(axis), int(step))]
        (size,) = reshaping.known(eqn.outvars[0].aval.shape[axis : axis + 1])
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        x = type(x)(low.graph.one("Slice", x.name, *ends), x.axes, shape, x.dtype)
    return x


def gather(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    """Places of constant indices along some axes, each axis by itself.

    So JAX writes `x[:, ::2, 3]` and `jnp.take` of constant places.
    """
    x, places = inputs
    d, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if not isinstance(places, np.ndarray) or d.operand_batching_dims:
        raise unsupported(eqn, "places that depend on the input")
    out = eqn.outvars[0].aval
    kept = [axis for axis in range(len(x.shape)) if axis not in d.collapsed_slice_dims]
    grid = [i for i in range(len(out.shape)) if i not in d.offset_dims]  # the places' own axes
    for k, axis in enumerate(d.start_index_map):
        index, size = places[..., k], sizes[axis]
        if axis in d.collapsed_slice_dims and grid:
            x = _take(low, eqn, x, axis, _row(eqn, index, k, len(grid)))
        else:  # one place: what begins there
            first = int(index.flat[0])
            if first < 0 or first + int(size) > (x.shape[axis] or 1):
                raise unsupported(eqn, "places outside")
            x = cut(low, x, axis, first, first + int(size), 1)
    dropped = tuple(d.collapsed_slice_dims) if not grid else ()
    expected = sorted(kept + ([] if dropped else list(d.collapsed_slice_dims)))
    if not dropped and [axis in kept for axis in expected] != [
        i in d.offset_dims for i in range(len(out.shape))
    ]:
        raise unsupported(eqn, "axes that change places")
    return reshaping.without(low, x, dropped) if dropped else x


def _row(eqn: Any, index: np.ndarray, k: int, axes: int) -> np.ndarray:
    """Return the places along one axis, where they are alike along the others' axes."""
    at = k if axes > 1 else 0
    row = np.moveaxis(index, at, 0).reshape(index.shape[at], -1)
    if index.ndim != axes or (row != row[:, :1]).any():
        raise unsupported(eqn, "places that are no grid")
    return row[:, 0]


def _take(low: Lowering, eqn: Any, x: Tensor, axis: int, row: np.ndarray) -> Tensor:
    size = x.shape[axis]
    if size is None or row.min() < 0 or row.max() >= size:
        raise unsupported(eqn, "places outside")
    step = int(row[1] - row[0]) if len(row) > 1 else 1
    if step > 0 and (np.diff(row) == step).all():
        return cut(low, x, axis, int(row[0]), int(row[-1]) + 1, step)
    at = low.graph.constant(row.astype(np.int64))
    name = low.graph.one("Gather", x.name, at, axis=x.axes.index(axis))
    shape = (*x.shape[:axis], len(row), *x.shape[axis + 1 :])
    return type(x)(name, x.axes, shape, x.dtype)


def reverse(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    (x,), turned = inputs, eqn.params["dimensions"]
    ends = [[-1] * len(turned), [-(2**31)] * len(turned)]
    places = [x.axes.index(i) for i in turned], [-1] * len(turned)
    name = low.graph.one("Slice", x.name, *(low.graph.integers(*n) for n in (*ends, *places)))
    return low.tensor(name, x.axes, eqn.outvars[0].aval)


def split(low: Lowering, eqn: Any, inputs: list[Any]) -> list[Any]:
    (x,), sizes, axis = inputs, eqn.params["sizes"], eqn.params["axis"]
    ends = [0, *itertools.accumulate(map(int, sizes))]
    if x.shape[axis] is None:
        raise unsupported(eqn, "parts of the batch")
    return [cut(low, x, axis, a, b, 1) for a, b in itertools.pairwise(ends)]


def _starts(eqn: Any, given: Sequence[Value], shape: Axes, sizes: Axes) -> list[int]:
    """Return where a part begins along each axis, moved inside as JAX does; of the batch, 0."""
    if not all(isinstance(v, np.ndarray) for v in given):
        raise unsupported(eqn, "places that depend on the input")
    wanted = zip(map(int, given), shape, sizes, strict=True)  # type: ignore[arg-type] # scalars
    return [0 if n is None else max(0, min(at, n - size)) for at, n, size in wanted]


def _whole_batch(eqn: Any, sizes: Sequence[Any]) -> None:
    """Refuse a part that is not as long as the array along the axis of the batch."""
    for n, size in zip(eqn.invars[0].aval.shape, sizes, strict=True):
        if batches.is_open(n) and size != n:
            raise unsupported(eqn, "some of the images")


def dynamic_slice(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    x, *given = inputs
    if isinstance(x, np.ndarray):
        raise unsupported(eqn, "places that depend on the input")
    _whole_batch(eqn, eqn.params["slice_sizes"])
    sizes = reshaping.known(eqn.params["slice_sizes"])
    for axis, start in enumerate(_starts(eqn, given, x.shape, sizes)):
        if x.shape[axis] is not None:
            x = cut(low, x, axis, start, start + sizes[axis], 1)
    return x


def dynamic_update_slice(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    whole, part, *given = inputs
    _whole_batch(eqn, eqn.invars[1].aval.shape)
    shape, sizes = (reshaping.known(v.aval.shape) for v in eqn.invars[:2])
    name = low.whole(part, tuple(range(len(sizes))), eqn.invars[1].aval.shape)
    return _placed(low, eqn, whole, name, _starts(eqn, given, shape, sizes), sizes)


def _placed(
    low: Lowering,
    eqn: Any,
    whole: Value,
    part: str,
    starts: Sequence[int],
    sizes: Axes,
    reduction: str = "",
) -> Tensor:
    """Return an array of which a part is written over, or added to.

    Args:
        low: The lowering.
        eqn: The equation.
        whole: The array.
        part: The name of what is written, of as many axes.
        starts: Where it begins along each axis.
        sizes: Its shape.
        reduction: `add`, or nothing.
    """
    aval = eqn.outvars[0].aval
    shape, axes = reshaping.known(aval.shape), tuple(range(len(aval.shape)))
    stops = [at + (n or 1) for at, n in zip(starts, sizes, strict=True)]
    ends = [(n or 1) - stop for n, stop in zip(shape, stops, strict=True)]
    fill = low.graph.constant(np.zeros((), np.dtype(aval.dtype)))
    name = low.graph.one("Pad", part, low.graph.integers(*starts, *ends), fill)
    if reduction == "add":
        return low.tensor(low.graph.one("Add", low.stored(whole, axes), name), axes, aval)
    here = np.zeros([n or 1 for n in shape], bool)
    here[tuple(map(slice, starts, stops))] = True
    name = low.graph.one("Where", low.graph.constant(here), name, low.stored(whole, axes))
    return low.tensor(name, axes, aval)


def scatter(reduction: str = "") -> Callable[[Lowering, Any, list[Any]], Tensor]:
    """Return a rule that writes values to places; or combines them with what stands there."""

    def rule(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
        d = eqn.params["dimension_numbers"]
        if not reduction and eqn.params["update_jaxpr"] is not None:
            raise unsupported(eqn, "a function of what stands there")
        if not d.scatter_dims_to_operand_dims and not d.operand_batching_dims:
            return _everywhere(low, eqn, inputs, reduction)
        whole_rows = set(d.scatter_dims_to_operand_dims) == set(d.inserted_window_dims)
        return (_scattered if whole_rows else _written)(low, eqn, inputs, reduction)

    return rule


def _everywhere(low: Lowering, eqn: Any, inputs: list[Any], reduction: str) -> Tensor:
    """Translate a scatter to all places, as `x.at[:].set(y)` is."""
    (whole, _, values), shape = inputs, eqn.invars[0].aval.shape
    if eqn.invars[2].aval.shape != shape:
        raise unsupported(eqn, "parts of rows")
    axes = tuple(range(len(shape)))
    name = low.whole(values, axes, shape)
    if reduction:
        name = low.graph.one(reduction.capitalize(), low.stored(whole, axes), name)
    return low.tensor(name, axes, eqn.outvars[0].aval)


def _written(low: Lowering, eqn: Any, inputs: list[Any], reduction: str) -> Tensor:
    """Translate a scatter of one part to a fixed place, as `x.at[:, 1:3].set(y)` is."""
    whole, places, part = inputs
    d, shape = eqn.params["dimension_numbers"], reshaping.known(eqn.invars[0].aval.shape)
    if not isinstance(places, np.ndarray) or places.ndim != 1 or reduction not in ("", "add"):
        raise unsupported(eqn, "parts at several places, or at places that depend on the input")
    axes = tuple(range(len(eqn.invars[2].aval.shape)))
    name = low.whole(part, axes, eqn.invars[2].aval.shape)
    if d.inserted_window_dims:
        name = low.graph.one("Unsqueeze", name, low.graph.integers(*d.inserted_window_dims))
    kept = iter(eqn.invars[2].aval.shape)
    spans = [1 if i in d.inserted_window_dims else next(kept) for i in range(len(shape))]
    _whole_batch(eqn, spans)
    sizes = reshaping.known(spans)
    starts = [0] * len(shape)
    for axis, at in zip(d.scatter_dims_to_operand_dims, places, strict=True):
        starts[axis] = int(at)
    ends = zip(starts, shape, sizes, strict=True)
    if any(at < 0 or at + (size or 1) > (n or 1) for at, n, size in ends):
        raise unsupported(eqn, "places outside")
    return _placed(low, eqn, whole, name, starts, sizes, reduction)


def _scattered(low: Lowering, eqn: Any, inputs: list[Any], reduction: str) -> Tensor:
    """Translate a scatter of single elements, or of whole rows, to any places."""
    d = eqn.params["dimension_numbers"]
    (whole, places, values), shapes = inputs, [v.aval.shape for v in eqn.invars]
    axes = (*d.operand_batching_dims, *d.scatter_dims_to_operand_dims)
    rest = tuple(i for i in range(len(shapes[0])) if i not in axes)
    if [shapes[2][i] for i in d.update_window_dims] != [shapes[0][i] for i in rest]:
        raise unsupported(eqn, "parts of rows")
    order = tuple(i for i in range(len(shapes[2])) if i not in d.update_window_dims)
    data = low.whole(whole, (*axes, *rest), shapes[0])
    updates = low.whole(values, (*order, *d.update_window_dims), shapes[2])
    index = _index(low, places, shapes[1], d.scatter_indices_batching_dims)
    sizes = batches.dims(low, [shapes[0][i] for i in axes])
    given = {"reduction": reduction} if reduction else {}
    mode = eqn.params["mode"].name
    if mode == "CLIP":
        most = low.graph.one("Sub", sizes, low.graph.integers(1))
        index = low.graph.one("Min", low.graph.one("Max", index, low.graph.integers(0)), most)
    if mode == "FILL_OR_DROP":  # what is dropped goes to one row more, which is cut off
        index = _dropped(low, index, sizes, len(axes))
        ends = [0] * len(shapes[0]) + [1] + [0] * (len(shapes[0]) - 1)
        fill = low.graph.constant(np.zeros((), np.dtype(eqn.outvars[0].aval.dtype)))
        data = low.graph.one("Pad", data, low.graph.integers(*ends), fill)
    name = low.graph.one("ScatterND", data, index, updates, **given)
    if mode == "FILL_OR_DROP":
        name = low.graph.one("Slice", name, *(low.graph.integers(n) for n in (0, -1, 0)))
    return low.tensor(name, (*axes, *rest), eqn.outvars[0].aval)


def _index(low: Lowering, places: Value, shape: Sequence[Any], batching: Axes) -> str:
    """Return places as ONNX wants them, with a number for each axis that is gone through."""
    name = low.whole(places, tuple(range(len(shape))), shape)
    name = low.graph.one("Cast", name, to=TensorProto.INT64)
    columns = [batches.numbers(low, (*shape[:-1], 1), axis) for axis in batching]
    return low.graph.one("Concat", *columns, name, axis=len(shape) - 1) if columns else name


def _dropped(low: Lowering, index: str, sizes: str, axes: int) -> str:
    """Return places of which those outside are one behind the end of the first axis."""
    before = low.graph.one("Less", index, low.graph.integers(0))
    behind = low.graph.one("GreaterOrEqual", index, sizes)
    outside = low.graph.one("Cast", low.graph.one("Or", before, behind), to=TensorProto.INT64)
    outside = low.graph.one("ReduceMax", outside, low.graph.integers(-1), keepdims=1)
    spare = low.graph.one("Mul", sizes, low.graph.integers(1, *[0] * (axes - 1)))
    outside = low.graph.one("Cast", outside, to=TensorProto.BOOL)
    return low.graph.one("Where", outside, spare, index)
