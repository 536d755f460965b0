"""Functions of `jax_impl.layers` that ONNX has an operator for.

Written out for XLA's compiler they are many equations, and slow ones in ONNX Runtime. A rule gets
the function's own jaxpr and reads stride, padding and the like from it; where that is not what the
rule knows, it gives None, and the equations are translated one by one. Whether the operator is the
function is not taken on trust: `parity export` and `parity check --onnx` compare what the file
computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.extend import core

from parity.export import folding
from parity.export.primitives import conv
from parity.export.reshaping import CHANNELS_FIRST

if TYPE_CHECKING:
    from parity.export.from_jax import Lowering


def prelu(low: Lowering, closed: Any, inputs: list[Any]) -> list[Any] | None:
    """`x` where it is positive, else its product with one slope, or one for each channel."""
    x, slope = inputs
    if isinstance(x, np.ndarray) or not isinstance(slope, np.ndarray):
        return None
    name = low.stored(x, CHANNELS_FIRST)
    if slope.size == 1:
        name = low.graph.one("LeakyRelu", name, alpha=float(slope.flat[0]))
    else:
        name = low.graph.one("PRelu", name, low.graph.constant(slope.reshape(-1, 1, 1)))
    return [low.tensor(name, CHANNELS_FIRST, closed.jaxpr.outvars[0].aval)]


def max_pool(low: Lowering, closed: Any, inputs: list[Any]) -> list[Any] | None:
    """Maxima of windows, and where they stood; the first of equals in both."""
    (x,), outputs = inputs, closed.jaxpr.outvars
    equations = list(every(closed.jaxpr))
    corner = next((e for e in equations if e.primitive.name == "mul"), None)  # stride * width
    if (
        isinstance(x, np.ndarray)
        or corner is None
        or not isinstance(corner.invars[1], core.Literal)
    ):
        return None
    k = math.isqrt(sum(e.primitive.name == "gt" for e in equations))
    pads = [e.params["padding_config"][1][0] for e in equations if e.primitive.name == "pad"]
    s, p = int(corner.invars[1].val) // x.shape[2], int(pads[0]) if pads else 0
    if list(outputs[0].aval.shape[1:3]) != [(n + 2 * p - k) // s + 1 for n in x.shape[1:3]]:
        return None
    name = low.stored(x, CHANNELS_FIRST)
    best, places = low.graph.add(
        "MaxPool", name, outputs=2, kernel_shape=[k, k], strides=[s, s], pads=[p, p, p, p]
    )
    found = low.tensor(best, CHANNELS_FIRST, outputs[0].aval)
    where = low.tensor(places, CHANNELS_FIRST, outputs[1].aval)
    return [
        found,
        type(found)(places, CHANNELS_FIRST, where.shape, where.dtype, windows=(places, name)),
    ]


def max_unpool(low: Lowering, closed: Any, inputs: list[Any]) -> list[Any] | None:
    """Values back to where the maxima stood, in a map like the one that was pooled."""
    x, places = inputs
    if isinstance(x, np.ndarray) or isinstance(places, np.ndarray) or not places.windows:
        return None
    aval = closed.jaxpr.outvars[0].aval
    s = aval.shape[1] // x.shape[1]
    indices, pooled = places.windows
    name = low.graph.one(
        "MaxUnpool",
        low.stored(x, CHANNELS_FIRST),
        indices,
        low.graph.one("Shape", pooled),
        kernel_shape=[s, s],
        strides=[s, s],
    )
    return [low.tensor(name, CHANNELS_FIRST, aval)]


def conv_by_taps(low: Lowering, closed: Any, inputs: list[Any]) -> list[Any] | None:
    """A convolution of stride 1: its taps' shifts are the paddings of the products."""
    x, kernel = inputs
    shifts = [
        tuple(int(side[0]) for side in eqn.params["padding_config"][1:3])
        for eqn in every(closed.jaxpr)
        if eqn.primitive.name == "pad"
    ]
    taps = kernel.shape[:2]
    if isinstance(x, np.ndarray) or len(shifts) != math.prod(taps):
        return None
    (ph, pw), (last_h, last_w) = shifts[0], shifts[-1]
    dilations = [
        (a - b) // (n - 1) if n > 1 else 1
        for a, b, n in zip(shifts[0], (last_h, last_w), taps, strict=True)
    ]
    name = conv(low, x, kernel, sides=((ph, ph), (pw, pw)), dilations=tuple(dilations))
    return [low.tensor(name, CHANNELS_FIRST, closed.jaxpr.outvars[0].aval)]


def interpolate(low: Lowering, closed: Any, inputs: list[Any]) -> list[Any] | None:
    """Linear interpolation along one axis to places that ONNX knows by name."""
    (x,), aval = inputs, closed.jaxpr.outvars[0].aval
    axis = next((i for i in (1, 2) if x.shape[i] != aval.shape[i]), None)
    if isinstance(x, np.ndarray):
        return None
    if axis is None:
        return [x]
    size, n = x.shape[axis], aval.shape[axis]
    consts = [np.asarray(c) for j in jaxprs(closed) for c in j.consts]
    low_places = next((c for c in consts if c.dtype.kind == "i" and c.shape == (n,)), None)
    share = [c.ravel() for c in consts if c.dtype.kind == "f"]
    at = np.arange(n)
    modes = {
        "align_corners": at * ((size - 1) / max(n - 1, 1)),
        "half_pixel": np.maximum((at + 0.5) * (size / n) - 0.5, 0),
    }
    for mode, places in modes.items():
        # Where the first of two shares is given with their left neighbour: exactly these places.
        if low_places is None or not (low_places == np.minimum(places.astype(int), size - 1)).all():
            continue
        part = np.clip(places - low_places, 0, 1)
        if not any(np.allclose(c, part, rtol=0, atol=1e-6) for c in share):
            continue
        name = low.graph.one(
            "Resize",
            low.stored(x, CHANNELS_FIRST),
            "",
            "",
            low.graph.integers(n),
            axes=[CHANNELS_FIRST.index(axis)],
            mode="linear",
            coordinate_transformation_mode=mode,
        )
        return [low.tensor(name, CHANNELS_FIRST, aval)]
    return None


def conv_transpose(low: Lowering, closed: Any, inputs: list[Any]) -> list[Any] | None:
    """A transposed convolution, written as the phases of its output."""
    x, kernel = inputs
    aval, constants = closed.jaxpr.outvars[0].aval, known_values(closed, inputs)
    shapes = [eqn.outvars[0].aval.shape for eqn in every(closed.jaxpr)]
    phases = next((shape for shape in shapes if len(shape) == 6), None)
    if isinstance(x, np.ndarray) or phases is None:
        return None
    strides, starts = (int(phases[1]), int(phases[3])), [0, 0]
    last = closed.jaxpr.eqns[-1]
    if last.primitive.name == "gather":  # what is cut off
        cut = last.params["dimension_numbers"].start_index_map
        for axis, start in zip(cut, constants[last.invars[1]], strict=True):
            starts[axis - 1] = int(start)
    elif last.primitive.name != "reshape":
        return None
    ends = [
        (n - 1) * s + k - p - m
        for n, s, k, p, m in zip(
            x.shape[1:3], strides, kernel.shape, starts, aval.shape[1:3], strict=False
        )
    ]
    name = low.graph.one(
        "ConvTranspose",
        low.stored(x, CHANNELS_FIRST),
        low.stored(kernel, (3, 2, 0, 1)),
        kernel_shape=list(kernel.shape[:2]),
        strides=list(strides),
        pads=[*starts, *(max(n, 0) for n in ends)],
        output_padding=[max(-n, 0) for n in ends],
    )
    return [low.tensor(name, CHANNELS_FIRST, aval)]


def depthwise(low: Lowering, closed: Any, inputs: list[Any]) -> list[Any] | None:
    """A convolution of each channel by itself: its taps are every s-th pixel, from another on."""
    x, kernel = inputs
    constants = known_values(closed, inputs)
    grids = [
        constants[eqn.invars[1]]
        for eqn in closed.jaxpr.eqns
        if eqn.primitive.name == "gather" and eqn.invars[1] in constants
    ]
    grids = [grid for grid in grids if grid.ndim == 3]
    taps = kernel.shape[:2]
    if isinstance(x, np.ndarray) or len(grids) != math.prod(taps) or min(grids[0].shape[:2]) < 2:
        return None
    pads = [
        eqn.params["padding_config"] for eqn in every(closed.jaxpr) if eqn.primitive.name == "pad"
    ]
    sides = tuple((int(a), int(b)) for a, b, _ in pads[0][1:3]) if pads else ((0, 0), (0, 0))
    first, last = grids[0], grids[-1]
    strides = tuple(int(n) for n in first[1, 1] - first[0, 0])
    dilations = tuple(
        int(n) // (k - 1) if k > 1 else 1
        for n, k in zip(last[0, 0] - first[0, 0], taps, strict=True)
    )
    name = conv(low, x, kernel, strides, sides, dilations, group=x.shape[3])
    return [low.tensor(name, CHANNELS_FIRST, closed.jaxpr.outvars[0].aval)]


def known_values(closed: Any, inputs: list[Any]) -> dict[Any, np.ndarray]:
    """Of a function's own variables those that depend on no input of the network."""
    values = {
        var: value
        for var, value in zip(closed.jaxpr.invars, inputs, strict=True)
        if isinstance(value, np.ndarray)
    }
    values |= zip(closed.jaxpr.constvars, map(np.asarray, closed.consts), strict=True)
    for eqn in closed.jaxpr.eqns:
        found = [
            np.asarray(v.val) if isinstance(v, core.Literal) else values.get(v) for v in eqn.invars
        ]
        if all(v is not None for v in found) and not _called(eqn):
            values |= zip(eqn.outvars, folding.fold(eqn, found), strict=True)
    return values


def every(jaxpr: Any) -> Any:
    """The equations of a jaxpr and of those it calls, in order."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in _called(eqn):
            yield from every(inner.jaxpr)


def jaxprs(closed: Any) -> Any:
    """A jaxpr and those it calls."""
    yield closed
    for eqn in closed.jaxpr.eqns:
        for inner in _called(eqn):
            yield from jaxprs(inner)


def _called(eqn: Any) -> list[Any]:
    return [eqn.params[key] for key in ("jaxpr", "call_jaxpr") if key in eqn.params]


Rule = Callable[["Lowering", Any, list[Any]], list[Any] | None]

TABLE: dict[str, Rule] = {
    "conv_by_taps": conv_by_taps,
    "conv_transpose": conv_transpose,
    "depthwise": depthwise,
    "interpolate": interpolate,
    "max_pool": max_pool,
    "max_unpool": max_unpool,
    "prelu": prelu,
}
