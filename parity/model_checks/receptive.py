"""Receptive fields: which rows and columns of the image each value of a PyTorch network sees.

Every map carries, per row, the first and the last row of the image that it depends on, and the same
for columns. A layer takes the outermost of what its window covers, a sum or concatenation those of
its parts. This is exact at the image's own size and holds for any strides, dilations, windows and
interpolations; weights that happen to be 0 count. In eval mode, where samples do not mix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from parity.capture.torch_side import tensors_of
from torch_impl import layers

# Per output row, or column: the first and the last one seen.
Span = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Field:
    """What a map sees of the image.

    Attributes:
        spans: Along its rows and along its columns.
    """

    spans: tuple[Span, Span]

    def size(self) -> tuple[int, int]:
        """Height and width of the largest field, in pixels of the image."""
        height, width = (int((last - first).max()) + 1 for first, last in self.spans)
        return height, width

    def fits(self, sides: tuple[int, ...]) -> bool:
        """Whether it is of a map with these sides, or can be broadcast to it."""
        return all(len(f) in (1, n) for (f, _), n in zip(self.spans, sides, strict=True))


def of_image(height: int, width: int) -> Field:
    """Of the image itself: each pixel sees itself."""
    rows, columns = np.arange(height), np.arange(width)
    return Field(((rows, rows), (columns, columns)))


def union(fields: Sequence[Field]) -> Field:
    """What a sum, product or concatenation of maps sees; maps of one pixel are broadcast."""
    rows, columns = (_outermost([f.spans[axis] for f in fields]) for axis in (0, 1))
    return Field((rows, columns))


def _outermost(spans: Sequence[Span]) -> Span:
    first, last = spans[0]
    for other_first, other_last in spans[1:]:
        first, last = np.minimum(first, other_first), np.maximum(last, other_last)
    return first, last


def field(tensor: torch.Tensor) -> Field | None:
    """That of a tensor that was computed inside `Fields`, if it has one."""
    return getattr(tensor, "_parity_field", None)


def mark(tensor: torch.Tensor, found: Field) -> None:
    """Say what a tensor sees."""
    tensor._parity_field = found  # type: ignore[attr-defined] # our own


class Fields(TorchFunctionMode):
    """While entered, what is computed from tensors that have a field gets one.

    That is so for functions that keep each pixel in its place, or make a single one of a single
    one; what moves pixels must be a layer, to which `through` is applied afterwards.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        fields = fields_of((args, kwargs or {}))
        for tensor in tensors_of(outputs):
            sides = tuple(tensor.shape[2:]) if tensor.ndim == 4 else (1, 1)
            if fields and all(f.fits(sides) for f in fields):
                mark(tensor, union(fields))
        return outputs


def fields_of(arguments: Any) -> list[Field]:
    """Of every tensor among the arguments that has one."""
    return [f for f in map(field, tensors_of(arguments)) if f is not None]


def through(layer: torch.nn.Module, arguments: Any, output: torch.Tensor) -> Field | None:
    """What a layer without parts gives sees, by what its arguments see.

    None where it moves pixels in a way that is not known here.
    """
    fields = fields_of(arguments)
    if not fields:
        return None
    seen = union(fields)
    taps = next((rule for kind, rule in TAPS.items() if isinstance(layer, kind)), None)
    if taps is None:
        return field(output)
    spans = []
    for axis, (first, last) in enumerate(seen.spans):
        n, m = len(first), output.shape[2 + axis]
        nearest, farthest = taps(layer, axis, n, m)
        spans.append((first[np.clip(nearest, 0, n - 1)], last[np.clip(farthest, 0, n - 1)]))
    return Field((spans[0], spans[1]))


def _window(layer: Any, axis: int, n: int, m: int) -> Span:
    dilation = _at(getattr(layer, "dilation", 1), axis)
    k, s, p = (_at(v, axis) for v in (layer.kernel_size, layer.stride, layer.padding))
    start = np.arange(m) * s - p
    end = start + dilation * (k - 1)
    before, beyond = np.maximum(-start, 0), np.maximum(end - (n - 1), 0)
    return start - -before // dilation * dilation, end + -beyond // dilation * dilation


def _same_window(layer: Any, axis: int, n: int, m: int) -> Span:
    del axis
    k, s = layer.kernel_size, layer.stride
    start = np.arange(m) * s - max((m - 1) * s + k - n, 0) // 2
    return start, start + k - 1


def _transposed(layer: Any, axis: int, n: int, m: int) -> Span:
    del n
    k, s, p = (_at(v, axis) for v in (layer.kernel_size, layer.stride, layer.padding))
    at = np.arange(m) + (layer.cut if isinstance(layer, layers.ConvTranspose2dSame) else p)
    return -((k - 1 - at) // s), at // s


def _unpooled(layer: Any, axis: int, n: int, m: int) -> Span:
    del n
    at = np.arange(m) // _at(layer.stride, axis)
    return at, at


def _adaptive(layer: Any, axis: int, n: int, m: int) -> Span:
    del layer, axis
    i = np.arange(m)
    return i * n // m, -(-(i + 1) * n // m) - 1


def _nearest(layer: Any, axis: int, n: int, m: int) -> Span:
    del layer, axis
    at = np.arange(m) * n // m
    return at, at


def _bilinear(layer: Any, axis: int, n: int, m: int) -> Span:
    del axis
    i = np.arange(m)  # the place in the input is a quotient; at an integer it is one pixel
    if layer.align_corners:
        place, unit = i * (n - 1), max(m - 1, 1)
    else:
        place, unit = np.maximum((2 * i + 1) * n - m, 0), 2 * m
    return place // unit, -(-place // unit)


def _doubled(layer: Any, axis: int, n: int, m: int) -> Span:
    del layer, axis, n
    i = np.arange(m)
    return i // 2, (i + 1) // 2


def _at(value: Any, axis: int) -> int:
    return value[axis] if isinstance(value, tuple) else value


# Of a layer that moves pixels: per output row the first and the last input row that it takes, which
# may lie outside. Arguments: layer, axis, rows that come in, rows that go out.
TAPS: dict[Any, Callable[[Any, int, int, int], Span]] = {
    layers.Conv2d: _window,
    layers.MaxPool2d: _window,
    layers.AvgPool2d: _window,
    layers.MaxPool2dSame: _same_window,
    layers.ConvTranspose2d: _transposed,
    layers.MaxUnpool2d: _unpooled,
    layers.AdaptiveAvgPool2d: _adaptive,
    layers.Nearest: _nearest,
    layers.Resize: _bilinear,
    layers.BilinearX2: _doubled,
}
