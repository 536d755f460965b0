"""Translation of functions, such as layers of `jax_impl.layers`, to single ONNX operators.

Written out for XLA's compiler they are many equations, and slow ones in ONNX Runtime. Functions
that are compiled or differentiated as a whole arrive here as separate jaxprs. Each rule guesses
stride, padding and the like from it; whether the operator is what it computes, whatever its name
and however it is written, is tried by running both (`parity.export.agreement`). Where no rule fits,
the equations are translated one by one, which is slower and no less right.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from parity.export import folding
from parity.export.agreement import agrees, called, drawn
from parity.export.primitives import conv
from parity.export.reshaping import CHANNELS_FIRST, known

if TYPE_CHECKING:
    from parity.export.from_jax import Lowering


def lowered(low: Lowering, closed: Any, inputs: list[Any]) -> list[Any] | None:
    """Return the outputs of a jaxpr by the first rule that fits; None if none does."""
    if all(isinstance(v, np.ndarray) for v in inputs):
        return None
    wanted = [(known(v.aval.shape), v.aval.dtype) for v in closed.jaxpr.outvars]
    for rule in TABLE.values():
        before = low.graph.mark()
        try:
            given = rule(low, closed, inputs)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
            given = None  # it is written in another way than the rule reads
        if given is not None and [(v.shape, v.dtype) for v in given] == wanted:
            return given
        low.graph.back_to(before)
    return None


def fed(inputs: list[Any]) -> list[np.ndarray]:
    """Return test inputs for a jaxpr: given constants, and random kernels and maps."""
    return [
        v if isinstance(v, np.ndarray) and v.ndim != 4 else drawn(v.shape, i)
        for i, v in enumerate(inputs)
    ]


def prelu(low: Lowering, closed: Any, inputs: list[Any]) -> list[Any] | None:
    """`x` where it is positive, else its product with one slope, or one for each channel."""
    at = 1 if isinstance(inputs[0], np.ndarray) else 0
    x, slope = inputs[at], inputs[1 - at]
    if len(inputs) != 2 or not isinstance(slope, np.ndarray) or slope.dtype.kind != "f":
        return None
    if len(x.shape) != 4 or slope.size not in (1, x.shape[3]) or slope.ndim > 1:
        return None

    def model(*arrays: Any) -> Any:
        x, slope = arrays[at], arrays[1 - at]
        return jnp.where(x > 0, x, slope * x)

    if not agrees(closed, fed(inputs), "prelu", model):
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
    if len(x.shape) != 4 or len(outputs) not in (1, 2) or outputs[0].aval.shape[3:] != x.shape[3:]:
        return None
    size = list(outputs[0].aval.shape[1:3])
    settings = [
        (k, s, p)
        for k, s in itertools.product(WINDOWS, WINDOWS)
        for p in range(k // 2 + 1)
        if size == [(n + 2 * p - k) // s + 1 for n in x.shape[1:3]] and (k, s) != (1, 1)
    ]
    found_settings = next(
        (
            given
            for given in settings
            if agrees(closed, fed(inputs), f"max_pool {given}", pooling(given, len(outputs)))
        ),
        None,
    )
    if found_settings is None:
        return None
    k, s, p = found_settings
    name = low.stored(x, CHANNELS_FIRST)
    best, places = low.graph.add(
        "MaxPool", name, outputs=2, kernel_shape=[k, k], strides=[s, s], pads=[p, p, p, p]
    )
    found = low.tensor(best, CHANNELS_FIRST, outputs[0].aval)
    if len(outputs) == 1:
        return [found]
    where = low.tensor(places, CHANNELS_FIRST, outputs[1].aval)
    return [
        found,
        type(found)(places, CHANNELS_FIRST, where.shape, where.dtype, windows=(places, name)),
    ]


def max_unpool(low: Lowering, closed: Any, inputs: list[Any]) -> list[Any] | None:
    """Values back to where the maxima stood, in a map like the one that was pooled."""
    at = 1 if inputs[0].windows else 0
    x, places = inputs[at], inputs[1 - at]
    if len(inputs) != 2 or not places.windows or len(closed.jaxpr.outvars) != 1:
        return None
    aval = closed.jaxpr.outvars[0].aval
    s, (height, width) = aval.shape[1] // x.shape[1], aval.shape[1:3]
    # As one program: each of its operations would be compiled by itself.
    values, stood = jax.jit(pooling((s, s, 0), 2))(drawn((1, *aval.shape[1:])))

    def model(*arrays: Any) -> Any:
        x, places = arrays[at], arrays[1 - at]
        flat = jnp.zeros((1, height * width, x.shape[3]), x.dtype)
        channels = jnp.arange(x.shape[3])
        flat = flat.at[0, places.reshape(-1, x.shape[3]), channels].set(x.reshape(-1, x.shape[3]))
        return flat.reshape(1, height, width, -1)

    given = [np.asarray(stood), np.asarray(values)]
    if not agrees(closed, given if at else given[::-1], f"max_unpool {s}", model):
        return None
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


def interpolate(low: Lowering, closed: Any, inputs: list[Any]) -> list[Any] | None:
    """Translate linear interpolation along one axis to a Resize, if ONNX has its coordinates."""
    (x,), aval = inputs, closed.jaxpr.outvars[0].aval
    if len(x.shape) != 4 or len(aval.shape) != 4 or len(closed.jaxpr.outvars) != 1:
        return None
    axes = [i for i in (1, 2, 3) if x.shape[i] != aval.shape[i]]
    if len(axes) != 1 or axes[0] == 3:
        return None
    axis = axes[0]
    size, n = x.shape[axis], aval.shape[axis]
    at = np.arange(n)
    modes = {
        "align_corners": at * ((size - 1) / max(n - 1, 1)),
        "half_pixel": np.maximum((at + 0.5) * (size / n) - 0.5, 0),
    }
    for mode, places in modes.items():
        model = interpolated(axis, size, places)
        if not agrees(closed, fed(inputs), f"interpolate {axis} {n} {mode}", model):
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
    """Return a transposed convolution, written as the phases of its output."""
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
    sides = [(k - 1 - p, k - 1 - m) for k, p, m in zip(kernel.shape[:2], starts, ends, strict=True)]
    model = transposed(padding=sides, lhs_dilation=strides)
    if not agrees(closed, fed(inputs), f"conv_transpose {sides} {strides}", model):
        return None
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
    """Convolve each channel by itself: its taps are every s-th pixel, from another on."""
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
    model = convolved(
        window_strides=strides,
        padding=sides,
        rhs_dilation=dilations,
        feature_group_count=x.shape[3],
    )
    if not agrees(closed, fed(inputs), f"depthwise {strides} {sides} {dilations}", model):
        return None
    name = conv(low, x, kernel, strides, sides, dilations, group=x.shape[3])
    return [low.tensor(name, CHANNELS_FIRST, closed.jaxpr.outvars[0].aval)]


def pooling(settings: tuple[int, int, int], outputs: int) -> Callable[..., Any]:
    """Max-pooling by window, stride and padding, and where in the map each maximum stood."""
    k, s, p = settings

    def model(x: Any) -> Any:
        width = x.shape[2]
        rows, columns = ((n + 2 * p - k) // s + 1 for n in x.shape[1:3])
        x = jnp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)), constant_values=-jnp.inf)
        taps = jnp.stack(
            [
                x[:, i : i + s * (rows - 1) + 1 : s, j : j + s * (columns - 1) + 1 : s]
                for i, j in itertools.product(range(k), range(k))
            ]
        )
        if outputs == 1:
            return taps.max(0)
        tap = taps.argmax(0)  # the first of equals
        y = jnp.arange(rows)[:, None, None] * s + tap // k - p
        places = y * width + jnp.arange(columns)[:, None] * s + tap % k - p
        return taps.max(0), places.astype(jnp.int32)

    return model


def convolved(**settings: Any) -> Callable[..., Any]:
    """Return a convolution of (N, H, W, in) with a kernel (kh, kw, in, out)."""
    given = {"window_strides": (1, 1), "dimension_numbers": ("NHWC", "HWIO", "NHWC")} | settings
    return lambda x, kernel: lax.conv_general_dilated(x, kernel, **given)


def transposed(**settings: Any) -> Callable[..., Any]:
    """Model a transposed convolution: a convolution with the kernel (kh, kw, out, in) flipped."""
    run = convolved(**settings)
    return lambda x, kernel: run(x, kernel[::-1, ::-1].transpose(0, 1, 3, 2))


def interpolated(axis: int, size: int, places: np.ndarray) -> Callable[[Any], Any]:
    """Linear interpolation along an axis of so many pixels, to these places."""
    left = np.minimum(places.astype(int), size - 1)
    right, share = np.minimum(left + 1, size - 1), np.clip(places - left, 0, 1)
    share = share.astype(np.float32).reshape([-1 if i == axis else 1 for i in range(4)])
    return lambda x: jnp.take(x, left, axis) * (1 - share) + jnp.take(x, right, axis) * share


def known_values(closed: Any, inputs: list[Any]) -> dict[Any, np.ndarray]:
    """Return the values of a function's variables that depend on no input of the network."""
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
        if all(v is not None for v in found) and called(eqn) is None:
            values |= zip(eqn.outvars, folding.fold(eqn, found), strict=True)
    return values


def every(jaxpr: Any) -> Any:
    """Return the equations of a jaxpr and of those it calls, in order."""
    for eqn in jaxpr.eqns:
        yield eqn
        if (inner := called(eqn)) is not None:
            yield from every(inner.jaxpr)


WINDOWS = (1, 2, 3)  # sides and strides of windows of which maxima are looked for

Rule = Callable[["Lowering", Any, list[Any]], list[Any] | None]

TABLE: dict[str, Rule] = {
    "conv_transpose": conv_transpose,
    "depthwise": depthwise,
    "interpolate": interpolate,
    "max_pool": max_pool,
    "max_unpool": max_unpool,
    "prelu": prelu,
}
