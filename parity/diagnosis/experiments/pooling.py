"""Changes of pooling and resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from parity.capture.torch_operations import Invocation, Operation
from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments.change import ODD, PLAIN, Changes, given, one
from parity.diagnosis.experiments.convolution import (
    Ends,
    directions,
    other_ends,
    padded,
    same_ends,
    tuple_of,
)

MAX = ("max_pool1d", "max_pool2d", "max_pool2d_with_indices", "max_pool3d")
AVERAGE = ("avg_pool1d", "avg_pool2d", "avg_pool3d")
BY_AXES: dict[str, dict[int, Callable[..., Any]]] = {
    "max": {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d},
    "average": {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d},
}


def changes(operation: Operation, among: Sequence[Operation]) -> Changes:
    del among
    if operation.name in MAX:
        yield from _max(operation)
    elif operation.name in AVERAGE:
        yield from _average(operation)
    elif operation.name == "adaptive_avg_pool2d":
        yield from _adaptive(operation)
    elif operation.name == "max_unpool2d":
        yield one(
            operation, Fault.UNPOOL_INDICES, "indices read as those of NHWC maps", unpooled_nhwc
        )
    elif operation.name == "interpolate":
        yield from _resize(operation)
    elif operation.name == "grid_sample":
        yield from _sampled(operation)
    elif operation.name == "adaptive_max_pool2d":
        text = "the average of each window"
        yield one(operation, "pool-kind", text, _adaptive_mean, PLAIN)


def _max(o: Operation) -> Changes:
    size, window, stride, dilation, padding = directions(o)
    low = -torch.inf
    ends = same_ends(size, window, stride, dilation)
    if ends != tuple((p, p) for p in padding):
        yield one(o, Fault.SAME_PADDING, "SAME padding", _maxima(ends, low))
    ceil = bool(o.arguments.get("ceil_mode"))
    text = "its size rounded down" if ceil else "its size rounded up (ceil mode)"
    yield given(o, Fault.POOL_CEIL_MODE, text, ceil_mode=not ceil)
    if any(padding):
        around = tuple((p, p) for p in padding)
        text = "padding of 0, not of minus infinity"
        yield one(o, "pool-pads-zeros", text, _maxima(around, 0.0))
        zeros = "SAME padding of 0, not of minus infinity"
        yield one(o, "pool-pads-zeros", zeros, _maxima(ends, 0.0), PLAIN)
    for text, other in other_ends(size, window, stride, dilation, padding):
        yield one(o, "padding", text, _maxima(other, low), PLAIN)
    for s in (1, 2):
        if set(stride) != {s}:
            yield given(o, "stride", f"stride {s} instead of {stride[0]}", PLAIN, stride=s)
    if len(size) == 2:
        text = "the gradient shared between equal maxima"
        yield one(o, Fault.MAX_POOL_TIES, text, _shared(False))
        yield one(o, Fault.MAX_POOL_TIES, "the gradient to the last of equal maxima", _shared(True))
    if o.name == "max_pool2d_with_indices":
        yield one(o, Fault.UNPOOL_INDICES, "indices of NHWC maps", _indices_nhwc)
    yield one(o, "pool-kind", "the average of each window", _mean_instead, PLAIN)


def _maxima(ends: Ends, value: float) -> Callable[[Invocation], Any]:
    def replacement(call: Invocation) -> Any:
        x = call["input"]
        wide = padded(x, ends, value)
        found = call(input=wide, padding=0)
        if not isinstance(found, tuple):
            return found
        best, at = found
        (top, _), (left, _) = ends
        rows, columns = at // wide.shape[-1] - top, at % wide.shape[-1] - left
        return best, rows * x.shape[-1] + columns

    return replacement


def _taps(call: Invocation, best: torch.Tensor) -> torch.Tensor:
    """Return every element of each window, (taps, N, C, H', W')."""
    n = 2
    k, p = tuple_of(call["kernel_size"], n), tuple_of(call["padding"], n)
    s = tuple_of(call["stride"] if call["stride"] not in (None, []) else k, n)
    d = tuple_of(call["dilation"], n)
    # As far as the last window goes, which in ceil mode may be beyond the padding.
    need = [
        (m - 1) * t + e * (w - 1) + 1 for m, t, e, w in zip(best.shape[2:], s, d, k, strict=True)
    ]
    ends = tuple(
        (q, max(m - size - q, 0))
        for q, m, size in zip(p, need, call["input"].shape[2:], strict=True)
    )
    x = padded(call["input"], ends, -torch.inf)
    rows, columns = best.shape[2:]
    return torch.stack(
        [
            x[
                :,
                :,
                i * d[0] : i * d[0] + s[0] * (rows - 1) + 1 : s[0],
                j * d[1] : j * d[1] + s[1] * (columns - 1) + 1 : s[1],
            ]
            for i in range(k[0])
            for j in range(k[1])
        ]
    )


def _shared(last: bool) -> Callable[[Invocation], Any]:
    def replacement(call: Invocation) -> Any:
        found = call()
        best = found[0] if isinstance(found, tuple) else found
        taps = _taps(call, best)
        if last:
            y = functional.max_pool1d(taps.flip(0).flatten(1).T[None], len(taps)).reshape(
                best.shape
            )
        else:
            y = taps.amax(0)  # whose gradient is shared
        return (y, found[1]) if isinstance(found, tuple) else y

    return replacement


def _indices_nhwc(call: Invocation) -> Any:
    best, at = call()
    channels = best.shape[1]
    return best, at * channels + torch.arange(channels).reshape(-1, 1, 1)


def _mean_instead(call: Invocation) -> Any:
    axes = int(call.name[len("max_pool")])
    return BY_AXES["average"][axes](
        call["input"],
        call["kernel_size"],
        call["stride"],
        call["padding"],
        bool(call["ceil_mode"]),
    )


def unpooled_nhwc(call: Invocation) -> torch.Tensor:
    """Unpooling that takes indices of one channel's map for those of a map with channels last."""
    x, at, size = call["input"], call["indices"], call.get("output_size")
    n, c = x.shape[:2]
    if size is None:
        k = tuple_of(call["kernel_size"], 2)
        s = tuple_of(call["stride"] if call["stride"] is not None else k, 2)
        rows, columns = ((m - 1) * t + w for m, t, w in zip(x.shape[2:], s, k, strict=True))
    else:
        rows, columns = size[-2:]
    last = x.permute(0, 2, 3, 1).reshape(n, -1)
    flat = x.new_zeros(n, rows * columns * c)
    places = at.permute(0, 2, 3, 1).reshape(n, -1)
    return flat.scatter_add(1, places, last).reshape(n, rows, columns, c).permute(0, 3, 1, 2)


def _average(o: Operation) -> Changes:
    size, window, stride, dilation, padding = directions(o)
    counts, ceil = bool(o.arguments["count_include_pad"]), bool(o.arguments["ceil_mode"])
    text = "padding left out of the average" if counts else "padding counted in the average"
    yield given(o, Fault.POOL_COUNTS_PADDING, text, count_include_pad=not counts)
    text = "its size rounded down" if ceil else "its size rounded up (ceil mode)"
    yield given(o, Fault.POOL_CEIL_MODE, text, ceil_mode=not ceil)
    for text, ends, fault in (
        ("SAME padding", same_ends(size, window, stride, dilation), Fault.SAME_PADDING),
        *((t, e, "padding") for t, e in other_ends(size, window, stride, dilation, padding)),
    ):
        for counted in (True, False):
            how = "counted" if counted else "left out"
            yield one(o, fault, f"{text}, {how} in the average", _averages(ends, counted), PLAIN)
    if len(size) > 1:
        text = "the sum of each window"
        yield one(o, "pool-sum", text, lambda call: call(divisor_override=1), PLAIN)
    yield one(
        o,
        "pool-kind",
        "the maximum of each window",
        lambda call: BY_AXES["max"][len(size)](
            call["input"], call["kernel_size"], call["stride"], call["padding"]
        ),
        PLAIN,
    )


def _averages(ends: Ends, counted: bool) -> Callable[[Invocation], Any]:
    def replacement(call: Invocation) -> Any:
        x = call["input"]
        total = call(input=padded(x, ends), padding=0)
        if counted:
            return total
        share = call(input=padded(torch.ones_like(x), ends), padding=0)
        return total / share

    return replacement


def _adaptive(o: Operation) -> Changes:
    yield one(o, Fault.ADAPTIVE_POOL_WINDOWS, "windows of one size and stride", _fixed)
    yield one(o, Fault.ADAPTIVE_POOL_WINDOWS, "an antialiased resize", _area, ODD)


def _fixed(call: Invocation) -> torch.Tensor:
    x = call["input"]
    bins = tuple_of(call["output_size"], 2)
    s = [n // b for n, b in zip(x.shape[2:], bins, strict=True)]
    k = [n - (b - 1) * t for n, b, t in zip(x.shape[2:], bins, s, strict=True)]
    return functional.avg_pool2d(x, k, s)


def _area(call: Invocation) -> torch.Tensor:
    bins = tuple_of(call["output_size"], 2)
    return functional.interpolate(call["input"], bins, mode="bilinear", antialias=True)


def _adaptive_mean(call: Invocation) -> torch.Tensor:
    return functional.adaptive_avg_pool2d(call["input"], call["output_size"])


def _sampled(o: Operation) -> Changes:
    """Yield a sampling at a grid whose corners, border or interpolation is another one."""
    aligned = bool(o.arguments.get("align_corners"))
    text = f"align_corners={not aligned}"
    yield given(o, Fault.ALIGN_CORNERS_UP, text, align_corners=not aligned)
    for name, others in (
        ("padding_mode", ("zeros", "border", "reflection")),
        ("mode", ("bilinear", "nearest", "bicubic")),
    ):
        for other in others:
            if other != o.arguments[name]:
                text = f"{name} `{other}` instead of `{o.arguments[name]}`"
                arguments: dict[str, Any] = {name: other}
                yield given(o, "grid-sample", text, **arguments)
    text = "its grid's x and y swapped"
    yield one(o, "grid-sample", text, lambda call: call(grid=call["grid"].flip(-1)))


def _resize(o: Operation) -> Changes:
    x, mode = o.tensor("input"), o.arguments["mode"]
    out = o.outputs[0].shape
    assert x is not None
    smooth = mode in ("bilinear", "bicubic", "linear", "trilinear")
    up = out[2:] > x.shape[2:]
    corners = Fault.ALIGN_CORNERS_UP if up else Fault.ALIGN_CORNERS_DOWN
    aligned, anti = bool(o.arguments["align_corners"]), bool(o.arguments["antialias"])

    def to(text: str, fault: str, order: int = 0, **how: Any) -> Any:
        function = functional.interpolate
        return one(o, fault, text, lambda call: function(call["input"], size=out[2:], **how), order)

    for other in ("bilinear", "bicubic") if len(out) == 4 else ():
        for corner in (False, True):
            for smoothed in (False, True) if not corner else (False,):
                if (other, corner, smoothed) == (mode, aligned, anti):
                    continue
                fault: str = "resize-mode" if other != mode else corners
                fault = Fault.ANTIALIASED_RESIZE if smoothed != anti and fault == corners else fault
                parts = [f"`{other}`"] * (other != mode)
                parts += [f"align_corners={corner}"] * (corner != aligned)
                parts += ["antialiasing" if smoothed else "no antialiasing"] * (smoothed != anti)
                how = {"mode": other, "align_corners": corner, "antialias": smoothed}
                # An enlarged image has nothing to smooth, but bicubic's a is another one.
                odd = other != mode or (up and smoothed)
                yield to(", ".join(parts), fault, PLAIN if odd else 0, **how)
    for other in ("nearest", "nearest-exact"):
        if other != mode:
            fault = "resize-mode" if smooth else Fault.NEAREST_UPSAMPLING
            centre = " (the pixel whose centre is nearest)" if other == "nearest-exact" else ""
            yield to(f"`{other}`{centre}", fault, PLAIN if smooth else 0, mode=other)
    if not smooth:
        yield one(o, Fault.NEAREST_UPSAMPLING, "nearest by rounding", _rounded(out[2:]), PLAIN)
    if o.arguments.get("scale_factor") is not None and smooth:
        yield given(
            o, "resize-scale", "the scale computed anew from the sizes", recompute_scale_factor=True
        )
    if mode == "bilinear":
        text = "pixel i at i times the scale (no half-pixel centres)"
        yield one(o, "half-pixel", text, _asymmetric(out[2:]))
    if mode == "bicubic":
        for a in (-0.5, -0.75):
            yield one(o, "bicubic-a", f"bicubic with a = {a}", _cubic(out[2:], a, False))
            text = f"bicubic with a = {a}, weights at the border normalised"
            yield one(o, "bicubic-a", text, _cubic(out[2:], a, True))


def _rounded(out: tuple[int, ...]) -> Callable[[Invocation], torch.Tensor]:
    def replacement(call: Invocation) -> torch.Tensor:
        x = call["input"]
        for axis, m in enumerate(out, 2):
            n = x.shape[axis]
            at = torch.round(torch.arange(m) * (n / m)).long().clamp_max(n - 1)
            x = x.index_select(axis, at)
        return x

    return replacement


def _asymmetric(out: tuple[int, ...]) -> Callable[[Invocation], torch.Tensor]:
    """Bilinear by i * scale, as TensorFlow 1 and MindSpore have it."""

    def replacement(call: Invocation) -> torch.Tensor:
        x = call["input"]
        for axis, m in enumerate(out, 2):
            n = x.shape[axis]
            at = torch.arange(m, dtype=x.dtype) * (n / m)
            low = at.floor().long().clamp_max(n - 1)
            share = (at - low).reshape(-1, *[1] * (x.dim() - axis - 1))
            high = (low + 1).clamp_max(n - 1)
            x = x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share
        return x

    return replacement


def _cubic(out: tuple[int, ...], a: float, normal: bool) -> Callable[[Invocation], torch.Tensor]:
    """Keys's cubic: what is outside repeats the border, or does not count at all."""

    def weights(n: int, m: int, dtype: torch.dtype) -> torch.Tensor:
        at = (torch.arange(m, dtype=dtype) + 0.5) * (n / m) - 0.5
        table = torch.zeros(m, n, dtype=dtype)
        for tap in range(-1, 3):
            place = at.floor() + tap
            d = (at - place).abs()
            near = ((a + 2) * d - (a + 3)) * d * d + 1
            far = ((d - 5) * d + 8) * d * a - 4 * a
            value = torch.where(d <= 1, near, torch.where(d < 2, far, 0.0))
            inside = (place >= 0) & (place < n)
            value = value * inside if normal else value
            index = place.clamp(0, n - 1).long()[:, None]
            table = table.scatter_add(1, index, value[:, None])
        return table / table.sum(1, keepdim=True) if normal else table

    def replacement(call: Invocation) -> torch.Tensor:
        x = call["input"]
        rows, columns = (weights(n, m, x.dtype) for n, m in zip(x.shape[2:], out, strict=True))
        return torch.einsum("nchw,ih,jw->ncij", x, rows, columns)

    return replacement
