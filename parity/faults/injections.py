"""How each fault of a layer is injected: by its settings, its weights or its class."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from parity.diagnosis.catalogue import Fault
from parity.faults import layer_faults as faults
from parity.faults.blocks import BLOCKS
from parity.faults.injection import Arrays, Injection, assign, reweigh, substitute

OFFSET = 30.0  # how many standard deviations a mean must be for E[x^2] - E[x]^2 to show


def pads_unevenly(layer: Any, fed: Arrays) -> bool:
    """Return whether padding is meant as SAME: stride 2, and half the kernel at either end."""
    if getattr(layer, "return_indices", False) or getattr(layer, "dilation", (1, 1)) != (1, 1):
        return False
    k, s, p = (faults.pair(v) for v in (layer.kernel_size, layer.stride, layer.padding))
    return max(s) > 1 and k != (1, 1) and all(2 * b + 1 == a for a, b in zip(k, p, strict=True))


def even_ends(layer: Any, fed: Arrays) -> str:
    strides = faults.pair(layer.stride)
    odd = all(n % s == 1 for n, s in zip(fed[0].shape[1:3], strides, strict=True))
    return "at odd sizes SAME pads both ends alike" if odd else ""


def no_remainder(layer: Any, fed: Arrays) -> str:
    k, s, p = layer.kernel_size, layer.stride, layer.padding
    for n in fed[0].shape[1:3]:
        if (n + 2 * p - k) % s and (-(-(n + 2 * p - k) // s)) * s < n + p:
            return ""
    return "windows divide the size, so rounding up and down agree"


def lifted(layer: Any, fed: Arrays) -> str:
    del layer, fed
    return "runs in float64 leave casts to float32 out, and a note names the layer"


def no_ties(layer: Any, fed: Arrays) -> str:
    x, k, s, p = fed[0], layer.kernel_size, layer.stride, layer.padding
    x = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)), constant_values=-np.inf)
    rows, columns = ((n - k) // s + 1 for n in x.shape[1:3])
    taps = np.stack(
        [
            x[:, i : i + s * (rows - 1) + 1 : s, j : j + s * (columns - 1) + 1 : s]
            for i, j in itertools.product(range(k), range(k))
        ]
    )
    tied = (taps == taps.max(axis=0)).sum(axis=0) > 1
    return "" if tied.any() else "no window holds two equal maxima"


def no_padding(layer: Any, fed: Arrays) -> str:
    return "" if max(faults.pair(getattr(layer, "padding", 0))) else "it pads nothing"


def square(layer: Any, fed: Arrays) -> bool:
    shape = layer.kernel.shape
    return shape[-1] == shape[-2] > 1


def depthwise(layer: Any, fed: Arrays) -> bool:
    return layer.groups > 1 and layer.kernel.shape[2] == 1


def asymmetric(layer: Any, fed: Arrays) -> bool:
    return max(layer.kernel.shape[:2]) > 1


def no_choice(layer: Any, fed: Arrays) -> str:
    asked = next((a for a in fed[1:] if np.ndim(a) == 1), None)
    k, s, p = layer.kernel_size, layer.stride, layer.padding
    smallest = [
        (n - 1) * t - 2 * q + w for n, w, t, q in zip(fed[0].shape[1:3], k, s, p, strict=True)
    ]
    if asked is None or list(asked) == smallest:
        return "the output has no padding of its own"
    return ""


def paddable(layer: Any, fed: Arrays) -> bool:
    """Return whether there is padding, into which the output's padding can be moved."""
    return min(layer.padding) > 0


def drops(layer: Any, fed: Arrays) -> bool:
    return layer.p > 0 and len(fed) > 1


def keeps_all(layer: Any, fed: Arrays) -> str:
    return "" if (fed[1] == 0).any() else "the masks of this seed keep everything"


def half(layer: Any, fed: Arrays) -> str:
    return "p is 0.5, and so is 1 - p" if layer.p == 0.5 else ""


def offset(layer: Any, fed: Arrays) -> bool:
    axes = (0, 1, 2)
    return bool(np.median(abs(fed[0].mean(axes)) / (fed[0].std(axes) + 1e-12)) > OFFSET)


def resizes(up: bool) -> Callable[[Any, Arrays], bool]:
    def fits(layer: Any, fed: Arrays) -> bool:
        size = next((tuple(a) for a in fed[1:] if np.ndim(a) == 1), fed[0].shape[1:3])
        before = fed[0].shape[1:3]
        if not hasattr(layer, "align_corners"):
            return False
        return before != size and before != (1, 1) and (size > before) == up

    return fits


def nearest(layer: Any, fed: Arrays) -> bool:
    mode = str(getattr(layer, "mode", type(layer).__name__)).lower()
    return "nearest" in mode and fed[0].shape[1:3] != (1, 1)


def integer_ratio(layer: Any, fed: Arrays) -> str:
    size = next((tuple(a) for a in fed[1:] if np.ndim(a) == 1), fed[0].shape[1:3])
    exact = all(m % n == 0 for m, n in zip(size, fed[0].shape[1:3], strict=True))
    return "at integer ratios both take the same pixels" if exact else ""


def adapts(layer: Any, fed: Arrays) -> bool:
    bins = faults.pair(layer.output_size)
    return all(b > 1 and n >= b for n, b in zip(fed[0].shape[1:3], bins, strict=True))


def divisible(layer: Any, fed: Arrays) -> str:
    bins = faults.pair(layer.output_size)
    exact = all(n % b == 0 for n, b in zip(fed[0].shape[1:3], bins, strict=True))
    return "windows divide the size, so fixed ones are the same" if exact else ""


def per_channel(layer: Any, fed: Arrays) -> None:
    slope = np.asarray(layer.negative_slope[...])
    layer.negative_slope.set_value(np.full(fed[0].shape[-1], slope[0], slope.dtype))


CONV, TRANSPOSED, LINEAR = ("Conv2d",), ("ConvTranspose2d",), ("Linear",)
PRODUCTS = CONV + TRANSPOSED + LINEAR
NORM, POOL, DROPOUT = ("BatchNorm2d",), ("MaxPool2d",), ("Dropout", "Dropout2d")

INJECTIONS = (
    Injection(
        Fault.BATCH_NORM_MOMENTUM, "momentum 1 - m", NORM, assign(momentum=lambda m: 1 - m.momentum)
    ),
    Injection(
        Fault.BATCH_NORM_EPS,
        "another eps",
        NORM,
        assign(eps=lambda m: 1e-5 if m.eps == 1e-3 else 1e-3),
    ),
    Injection(
        Fault.BIASED_RUNNING_VARIANCE,
        "biased variance stored",
        NORM,
        substitute(faults.BiasedVariance),
    ),
    Injection(
        Fault.FAST_VARIANCE,
        "E[x^2] - E[x]^2",
        NORM,
        substitute(faults.FastVariance),
        offset,
        condition="offset",
    ),
    Injection(Fault.BATCH_NORM_MODE, "trains in eval mode", NORM, substitute(faults.AlwaysTrains)),
    Injection(
        Fault.SAME_PADDING, "SAME", CONV, substitute(faults.SameConv), pads_unevenly, even_ends
    ),
    Injection(
        Fault.SAME_PADDING, "SAME", POOL, substitute(faults.SamePool), pads_unevenly, even_ends
    ),
    Injection(
        Fault.KERNEL_NOT_FLIPPED, "not flipped", TRANSPOSED, substitute(faults.Flipped), asymmetric
    ),
    Injection(
        Fault.KERNEL_NOT_FLIPPED,
        "stored flipped",
        TRANSPOSED,
        reweigh("kernel", lambda k: k[::-1, ::-1]),
        asymmetric,
    ),
    Injection(
        Fault.OUTPUT_PADDING_SIDE,
        "before the map",
        TRANSPOSED,
        substitute(faults.WrongSide),
        paddable,
        no_choice,
    ),
    Injection(
        Fault.KERNEL_AXES, "read swapped", CONV + TRANSPOSED, substitute(faults.Swapped), square
    ),
    Injection(
        Fault.KERNEL_AXES,
        "stored swapped",
        CONV,
        reweigh("kernel", lambda k: k.swapaxes(2, 3)),
        square,
    ),
    Injection(Fault.KERNEL_AXES, "depthwise axes", CONV, substitute(faults.Depthwise), depthwise),
    Injection(
        Fault.ALIGN_CORNERS_UP,
        "align_corners",
        ("Resize",),
        assign(align_corners=lambda m: not m.align_corners),
        resizes(up=True),
    ),
    Injection(
        Fault.ALIGN_CORNERS_DOWN,
        "align_corners",
        ("Resize",),
        assign(align_corners=lambda m: not m.align_corners),
        resizes(up=False),
    ),
    Injection(
        Fault.ANTIALIASED_RESIZE,
        "antialiased",
        ("Resize",),
        substitute(faults.Antialiased),
        resizes(up=False),
    ),
    Injection(
        Fault.POOL_COUNTS_PADDING,
        "padding counted",
        ("AvgPool2d",),
        assign(count_include_pad=lambda m: not getattr(m, "count_include_pad", True)),
        equivalent=no_padding,
    ),
    Injection(
        Fault.POOL_CEIL_MODE,
        "rounds up",
        POOL,
        substitute(faults.CeilPool),
        equivalent=no_remainder,
    ),
    Injection(
        Fault.UNPOOL_INDICES,
        "indices of NHWC",
        POOL,
        substitute(faults.IndicesNHWC),
        lambda layer, fed: layer.return_indices,
    ),
    Injection(
        Fault.UNPOOL_INDICES,
        "indices read as NHWC",
        ("MaxUnpool2d",),
        substitute(faults.UnpoolNHWC),
    ),
    Injection(
        Fault.MAX_POOL_TIES,
        "ties shared",
        POOL,
        substitute(faults.TiesShared),
        equivalent=no_ties,
        condition="ties",
    ),
    Injection(
        Fault.PRELU_SLOPE_COUNT,
        "a slope per channel",
        ("PReLU",),
        per_channel,
        lambda layer, fed: layer.negative_slope.shape == (1,) and fed[0].shape[-1] > 1,
    ),
    Injection(
        Fault.DROPOUT_CHANNELS,
        "elements",
        ("Dropout2d",),
        substitute(faults.Elementwise),
        drops,
        keeps_all,
    ),
    Injection(
        Fault.DROPOUT_CHANNELS,
        "channels",
        ("Dropout",),
        substitute(faults.Channelwise),
        lambda layer, fed: drops(layer, fed) and fed[1].ndim == 4,
        keeps_all,
    ),
    Injection(
        Fault.DROPOUT_KEEP_PROBABILITY,
        "p is 1 - p",
        DROPOUT,
        assign(p=lambda m: 1 - m.p),
        drops,
        half,
    ),
    Injection(
        Fault.DROPOUT_KEEP_PROBABILITY,
        "drops what it keeps",
        DROPOUT,
        substitute(faults.DropsTheKept),
        drops,
    ),
    Injection(Fault.DROPOUT_SCALE, "not rescaled", DROPOUT, substitute(faults.NotRescaled), drops),
    Injection(
        Fault.NEAREST_UPSAMPLING,
        "centres",
        ("Resize", "Nearest", "NearestResize", "NearestUpsample", "Upsample"),
        substitute(faults.OtherNearest),
        nearest,
        integer_ratio,
    ),
    Injection(
        Fault.ADAPTIVE_POOL_WINDOWS,
        "fixed windows",
        ("AdaptiveAvgPool2d",),
        substitute(faults.FixedWindows),
        adapts,
        divisible,
    ),
    *(
        Injection(
            Fault.SHORTCUT_ORDER, "before the shortcut", (block,), substitute(fault), level="block"
        )
        for block, fault in BLOCKS.items()
    ),
    Injection(Fault.TF32, "TF32", PRODUCTS, substitute(faults.TF32)),
    Injection(
        Fault.X64_OFF,
        "returns float32",
        PRODUCTS,
        substitute(faults.Single),
        equivalent=lifted,
    ),
    Injection(
        Fault.X64_OFF,
        "float32 within",
        PRODUCTS,
        substitute(faults.SingleWithin),
        equivalent=lifted,
    ),
)
