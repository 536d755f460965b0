"""Translation of each JAX primitive to ONNX; the table is at the end.

A translation takes the lowering, the equation and its inputs, of which at least one depends on the
network's input; it gives the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from parity.export import indexing, reshaping
from parity.export.graph import unsupported

if TYPE_CHECKING:
    from parity.export.from_jax import Axes, Lowering, Tensor, Value

Rule = Callable[["Lowering", Any, list[Any]], Any]


def elementwise(op: str, *more: str) -> Rule:
    """Return a rule for one operator per element, followed by the operators in `more`."""

    def rule(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
        axes = order(inputs)
        name = low.graph.one(op, *(low.stored(v, axes if v.shape else ()) for v in inputs))
        for after in more:
            name = low.graph.one(after, name)
        return low.tensor(name, axes, eqn.outvars[0].aval)

    return rule


def order(inputs: list[Any]) -> Axes:
    """Return the order of axes to compute in: that of the first map that is not constant."""
    return max((v.axes for v in inputs if not isinstance(v, np.ndarray)), key=len)


def maximum(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    x, y = inputs
    if isinstance(y, np.ndarray) and y.dtype.kind == "f" and not y.any():
        return low.tensor(low.graph.one("Relu", x.name), x.axes, eqn.outvars[0].aval)
    return elementwise("Max")(low, eqn, inputs)


def select(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    which, *cases = inputs
    if len(cases) != 2 or which.dtype != bool:
        raise unsupported(eqn, f"{len(cases)} cases")
    return elementwise("Where")(low, eqn, [which, cases[1], cases[0]])


def convert(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"]))
    name = low.graph.one("Cast", inputs[0].name, to=kind)
    return low.tensor(name, inputs[0].axes, eqn.outvars[0].aval)


def concatenate(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    axes, along = order(inputs), eqn.params["dimension"]
    shapes = [v.aval.shape for v in eqn.invars]
    parts = [(v, s) for v, s in zip(inputs, shapes, strict=True) if s[along] != 0]
    names = [low.whole(v, axes, shape) for v, shape in parts]
    axis = axes.index(along)
    return low.tensor(low.graph.one("Concat", *names, axis=axis), axes, eqn.outvars[0].aval)


def pad(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    x, fill = inputs
    config = [tuple(map(int, side)) for side in eqn.params["padding_config"]]
    if any(between for _, _, between in config) or not isinstance(fill, np.ndarray):
        raise unsupported(eqn, f"padding {config}")
    sides = [config[i] for i in x.axes]
    name = x.name
    if any(before or after for before, after, _ in sides):
        pads = low.graph.integers(*(s[0] for s in sides), *(s[1] for s in sides))
        name = low.graph.one("Pad", name, pads, low.graph.constant(fill))
    return low.tensor(name, x.axes, eqn.outvars[0].aval)


def convolution(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    (x, kernel), p = inputs, eqn.params
    d = p["dimension_numbers"]
    if len(d.lhs_spec) != 4 or p["batch_group_count"] != 1:
        raise unsupported(eqn, f"axes {d}")
    if set(p["lhs_dilation"]) != {1}:
        return low.tensor(_transposed(low, eqn, x, kernel), d.out_spec, eqn.outvars[0].aval)
    name = conv(
        low,
        x,
        kernel,
        axes=(d.lhs_spec, d.rhs_spec),
        strides=p["window_strides"],
        sides=p["padding"],
        dilations=p["rhs_dilation"],
        group=p["feature_group_count"],
    )
    return low.tensor(name, d.out_spec, eqn.outvars[0].aval)


def _transposed(low: Lowering, eqn: Any, x: Value, kernel: Value) -> str:
    """Return a convolution of maps with zeros between their pixels: a transposed one."""
    p, d = eqn.params, eqn.params["dimension_numbers"]
    sides = [tuple(map(int, side)) for side in p["padding"]]
    plain = {*p["window_strides"], *p["rhs_dilation"], p["feature_group_count"]} == {1}
    if not plain or not isinstance(kernel, np.ndarray):
        raise unsupported(eqn, "a dilated input and strides, dilations or groups")
    kernel = kernel.transpose(d.rhs_spec)  # (out, in, kh, kw)
    strides, taps = [int(n) for n in p["lhs_dilation"]], kernel.shape[2:]
    starts = [k - 1 - a for k, (a, _) in zip(taps, sides, strict=True)]
    ends = [k - 1 - b for k, (_, b) in zip(taps, sides, strict=True)]
    if min(starts) < 0 or any(-n >= s for n, s in zip(ends, strides, strict=True)):
        raise unsupported(eqn, f"a dilated input and paddings {sides}")
    return low.graph.one(
        "ConvTranspose",
        low.stored(x, d.lhs_spec),
        low.graph.constant(kernel[:, :, ::-1, ::-1].swapaxes(0, 1)),
        kernel_shape=[int(n) for n in taps],
        strides=strides,
        pads=[*starts, *(max(n, 0) for n in ends)],
        output_padding=[max(-n, 0) for n in ends],
    )


def window(op: str) -> Rule:
    """Maxima or sums of windows of a map."""

    def rule(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
        (x, *_), p = inputs, eqn.params
        sizes, strides, sides = p["window_dimensions"], p["window_strides"], p["padding"]
        settings = [(*w, *side) for *w, side in zip(sizes, strides, sides, strict=True)]
        over = [i for i, s in enumerate(settings) if s != (1, 1, 0, 0)] or [1, 2]
        over += [i for i in (2, 1) if len(over) < 2 and i not in over][: 2 - len(over)]
        dilated = {*p["base_dilation"], *p["window_dilation"]} != {1}
        if len(x.shape) != 4 or len(over) != 2 or 0 in over or dilated:
            raise unsupported(eqn, f"windows {sizes}")
        axes = (0, next(i for i in (1, 2, 3) if i not in over), *sorted(over))
        given: dict[str, Any] = {
            "kernel_shape": [int(sizes[i]) for i in axes[2:]],
            "strides": [int(strides[i]) for i in axes[2:]],
            "pads": [int(sides[i][end]) for end in (0, 1) for i in axes[2:]],
        }
        if op == "AveragePool":
            given["count_include_pad"] = 1
        name = low.graph.one(op, low.stored(x, axes), **given)
        if op == "AveragePool":
            area = low.graph.constant(np.asarray(math.prod(sizes), x.dtype))
            name = low.graph.one("Mul", name, area)
        return low.tensor(name, axes, eqn.outvars[0].aval)

    return rule


def square(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    return elementwise("Mul")(low, eqn, [inputs[0], inputs[0]])


def clamp(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    least, x, most = inputs
    raised = elementwise("Max")(low, eqn, [x, least])
    return elementwise("Min")(low, eqn, [raised, most])


def conv(
    low: Lowering,
    x: Value,
    kernel: Value,
    strides: tuple = (1, 1),
    sides: tuple = ((0, 0), (0, 0)),
    dilations: tuple = (1, 1),
    group: int = 1,
    axes: tuple[Axes, Axes] = (reshaping.CHANNELS_FIRST, (3, 2, 0, 1)),
) -> str:
    """Convolve a map with a kernel.

    `axes` is where the map's (N, in, H, W) and the kernel's (out, in, kh, kw) stand; usually they
    are (N, H, W, in) and (kh, kw, in, out).
    """
    (top, bottom), (left, right) = sides
    return low.graph.one(
        "Conv",
        low.stored(x, axes[0]),
        low.stored(kernel, axes[1]),
        kernel_shape=[int(kernel.shape[i]) for i in axes[1][2:]],
        strides=list(map(int, strides)),
        pads=[int(n) for n in (top, left, bottom, right)],
        dilations=list(map(int, dilations)),
        group=int(group),
    )


def dot(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    """Products with constants: 1x1 convolutions, fully connected layers, sums with weights."""
    contract, batch = eqn.params["dimension_numbers"]
    flip = isinstance(inputs[0], np.ndarray)
    x, y = inputs[::-1] if flip else inputs
    if not isinstance(y, np.ndarray):
        raise unsupported(eqn, "two factors that depend on the input")
    (summed, with_), (kept, kept_of) = (
        map(tuple, p[::-1] if flip else p) for p in (contract, batch)
    )
    free = [i for i in range(len(x.shape)) if i not in (*summed, *kept)]
    own = [i for i in range(y.ndim) if i not in (*with_, *kept_of)]
    if own and kept:
        raise unsupported(eqn, f"dimensions {eqn.params['dimension_numbers']}")
    theirs = dict(zip((*kept, *summed), (*kept_of, *with_), strict=True))
    shared = [i for i in x.axes if i in theirs]
    weights = y.transpose([theirs[i] for i in shared] + own)
    if own:
        name, stored = _product(low, x, weights, shared)
    else:
        name, stored = _weighted_sum(low, x, weights, shared, summed)
    new = [-1 - i for i in range(len(own))]
    logical = [*kept, *([*new, *free] if flip else [*free, *new])]
    return low.tensor(name, tuple(logical.index(i) for i in stored), eqn.outvars[0].aval)


def _product(low: Lowering, x: Tensor, y: np.ndarray, summed: list[int]) -> tuple[str, list[int]]:
    """Some axes of `x` times a constant (*summed, *new).

    Returns:
        The name, and the axes as they are stored; new ones are -1, -2, ...
    """
    rest = [i for i in x.axes if i not in summed]
    new = y.shape[len(summed) :]
    if len(x.shape) == 4 and summed == [3] and len(new) == 1:
        return conv(low, x, y[None, None]), [0, -1, 1, 2]
    if len(rest) > 1 and [x.axes[-2]] == summed and len(new) == 1:  # rows of what is stored
        return low.graph.one("MatMul", low.graph.constant(y.T), x.name), [*rest[:-1], -1, rest[-1]]
    name, shape = low.stored(x, (*rest, *summed)), [x.shape[i] for i in rest]
    many = math.prod(y.shape[: len(summed)])
    if len(summed) > 1:
        name = reshaping.reshaped(low, name, [*shape, many])
    name = low.graph.one("MatMul", name, low.graph.constant(y.reshape(many, -1)))
    if len(new) > 1:
        name = reshaping.reshaped(low, name, [*shape, *new])
    return name, [*rest, *(-1 - i for i in range(len(new)))]


def _weighted_sum(
    low: Lowering, x: Tensor, y: np.ndarray, shared: list[int], summed: tuple[int, ...]
) -> tuple[str, list[int]]:
    """`x` times a constant of some of its axes, summed; the name, and the axes as stored."""
    sizes = dict(zip(shared, y.shape, strict=True))
    weights = low.graph.constant(y.reshape([sizes.get(i, 1) for i in x.axes]))
    where = low.graph.integers(*sorted(x.axes.index(i) for i in summed))
    name = low.graph.one("ReduceSum", low.graph.one("Mul", x.name, weights), where, keepdims=0)
    return name, [i for i in x.axes if i not in summed]


def reduction(op: str) -> Rule:
    def rule(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
        (x,), summed = inputs, eqn.params["axes"]
        where = low.graph.integers(*sorted(x.axes.index(i) for i in summed))
        name = low.graph.one(op, x.name, where, keepdims=0)
        left = [i for i in range(len(x.shape)) if i not in summed]
        axes = tuple(left.index(i) for i in x.axes if i not in summed)
        return low.tensor(name, axes, eqn.outvars[0].aval)

    return rule


def place(op: str) -> Rule:
    """Where the first of the largest or smallest stands along an axis."""

    def rule(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
        (x,), (axis,), aval = inputs, eqn.params["axes"], eqn.outvars[0].aval
        name = low.graph.one(op, x.name, axis=x.axes.index(axis), keepdims=0)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(aval.dtype))
        axes = tuple(i - (i > axis) for i in x.axes if i != axis)
        return low.tensor(low.graph.one("Cast", name, to=kind), axes, aval)

    return rule


def power(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    exponent = np.asarray(eqn.params["y"], inputs[0].dtype)
    return elementwise("Pow")(low, eqn, [inputs[0], exponent])


def tile(low: Lowering, eqn: Any, inputs: list[Any]) -> Tensor:
    (x,), many = inputs, eqn.params["reps"]
    repeats = low.graph.integers(*(many[i] for i in x.axes))
    return low.tensor(low.graph.one("Tile", x.name, repeats), x.axes, eqn.outvars[0].aval)


def same(low: Lowering, eqn: Any, inputs: list[Any]) -> Value:
    return inputs[0]


TABLE: dict[str, Rule] = {
    "abs": elementwise("Abs"),
    "add": elementwise("Add"),
    "and": elementwise("And"),
    "argmax": place("ArgMax"),
    "argmin": place("ArgMin"),
    "broadcast_in_dim": reshaping.broadcast,
    "ceil": elementwise("Ceil"),
    "clamp": clamp,
    "concatenate": concatenate,
    "conv_general_dilated": convolution,
    "convert_element_type": convert,
    "copy": same,
    "div": elementwise("Div"),
    "dot_general": dot,
    "dynamic_slice": indexing.dynamic_slice,
    "dynamic_update_slice": indexing.dynamic_update_slice,
    "eq": elementwise("Equal"),
    "erf": elementwise("Erf"),
    "exp": elementwise("Exp"),
    "floor": elementwise("Floor"),
    "gather": indexing.gather,
    "ge": elementwise("GreaterOrEqual"),
    "gt": elementwise("Greater"),
    "integer_pow": power,
    "le": elementwise("LessOrEqual"),
    "log": elementwise("Log"),
    "logistic": elementwise("Sigmoid"),
    "lt": elementwise("Less"),
    "max": maximum,
    "min": elementwise("Min"),
    "mul": elementwise("Mul"),
    "ne": elementwise("Equal", "Not"),
    "neg": elementwise("Neg"),
    "not": elementwise("Not"),
    "or": elementwise("Or"),
    "pad": pad,
    "pow": elementwise("Pow"),
    "reduce_max": reduction("ReduceMax"),
    "reduce_min": reduction("ReduceMin"),
    "reduce_prod": reduction("ReduceProd"),
    "reduce_sum": reduction("ReduceSum"),
    "reduce_window_max": window("MaxPool"),
    "reduce_window_sum": window("AveragePool"),
    "reshape": reshaping.reshape,
    "rev": indexing.reverse,
    "rsqrt": elementwise("Sqrt", "Reciprocal"),
    "scatter": indexing.scatter(),
    "scatter-add": indexing.scatter("add"),
    "scatter-max": indexing.scatter("max"),
    "scatter-min": indexing.scatter("min"),
    "scatter-mul": indexing.scatter("mul"),
    "select_n": select,
    "sign": elementwise("Sign"),
    "slice": indexing.slices,
    "split": indexing.split,
    "sqrt": elementwise("Sqrt"),
    "square": square,
    "squeeze": reshaping.squeeze,
    "stack": reshaping.stack,
    "stop_gradient": same,
    "sub": elementwise("Sub"),
    "tanh": elementwise("Tanh"),
    "tile": tile,
    "transpose": reshaping.transpose,
}
