"""Convolutions in float64 as products of matrices, which XLA computes many times as fast on a CPU.

XLA has fast convolutions in float32 and narrower types alone; one in float64 is a loop over all
numbers, which took 81 of 86 s of a run of ICNet on two images of 128x256.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import mlir

MIN_WORK = 1 << 23  # multiplications; below, compiling takes longer than what is saved
MAX_TAPS = 64  # elements of a kernel's window, or of the result; each is a product of its own
MIN_CHANNELS = 64  # products of fewer are slow, so elements of the window are taken together
MAX_PRODUCTS = 16  # and so are those of a large window, each of which is compiled
MAX_BYTES = 1 << 28  # of what is taken together


def is_slow(params: Mapping[str, Any], shape: Sequence[int], lhs: Any, rhs: Any) -> bool:
    """Return whether XLA is slow on a CPU with a convolution that `product` is fast with.

    Args:
        params: Of the primitive `jax.lax.conv_general_dilated_p`.
        shape: The result's.
        lhs: The image; like the kernel, an array, or the shape and type of one.
        rhs: The kernel.
    """
    if lhs.dtype != jnp.float64 or rhs.dtype != jnp.float64:
        return False
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return False
    if not all(isinstance(size, int) for size in (*shape, *lhs.shape, *rhs.shape)):
        return False  # symbolic, of a program that is exported for any number of images
    specs = params["dimension_numbers"]
    window = math.prod(rhs.shape[i] for i in specs.rhs_spec[2:])
    pixels = math.prod(shape[i] for i in specs.out_spec[2:])
    work = math.prod(shape) * window * rhs.shape[specs.rhs_spec[1]]
    return min(window, pixels) <= MAX_TAPS and work >= MIN_WORK


def product(params: Mapping[str, Any], shape: Sequence[int], lhs: Any, rhs: Any) -> Any:
    """Compute a convolution that `is_slow`, of the same arguments.

    A small window is summed element by element of the window. A large window, as in the gradient of
    a kernel, is summed at once for each element of the result.
    """
    specs = params["dimension_numbers"]
    batch, feature, *spatial = specs.lhs_spec
    out_features, in_features, *window = specs.rhs_spec
    x = lhs.transpose(batch, *spatial, feature)
    kernel = rhs.transpose(*window, in_features, out_features)
    padding = zip(params["padding"], params["lhs_dilation"], strict=True)
    config = [(0, 0, 0), *((lo, hi, d - 1) for (lo, hi), d in padding), (0, 0, 0)]
    x = lax.pad(x, np.zeros((), x.dtype), config)
    sizes = [shape[i] for i in specs.out_spec[2:]]
    steps = params["window_strides"], params["rhs_dilation"]
    is_small = math.prod(kernel.shape[:-2]) <= MAX_TAPS
    found = (_by_taps if is_small else _by_pixels)(x, kernel, sizes, *steps)
    order = np.argsort([specs.out_spec[0], *specs.out_spec[2:], specs.out_spec[1]])
    return found.transpose(order)


def taps_at_once(taps: int, channels: int, pixels: int) -> int:
    """Return of how many elements of a window one product is made.

    Args:
        taps: Elements of the window.
        channels: Of the image.
        pixels: Of the result, of all images.
    """
    wanted = max(MIN_CHANNELS // channels, taps // MAX_PRODUCTS, 1)
    return min(wanted, max(MAX_BYTES // max(8 * channels * pixels, 1), 1))


@functools.cache
def use() -> None:
    """Have JAX compile every convolution that `is_slow` on a CPU as `product`.

    Does nothing where this release of JAX keeps its own rules elsewhere: these are not public.
    """
    try:
        entry = mlir._platform_specific_lowerings["cpu"][lax.conv_general_dilated_p]
    except (AttributeError, KeyError):
        return
    rule: Any = getattr(entry, "rule", entry)  # before 0.10 the table held the rule itself

    def lower(ctx: mlir.LoweringRuleContext, lhs: Any, rhs: Any, **params: Any) -> Any:
        shape = getattr(ctx.avals_out[0], "shape", ())
        if not is_slow(params, shape, *ctx.avals_in):
            return rule(ctx, lhs, rhs, **params)
        function = functools.partial(product, params, shape)
        with jax.enable_x64(True):  # a program may be lowered where it could not be traced
            return mlir.lower_fun(function, multiple_results=False)(ctx, lhs, rhs)

    mlir.register_lowering(lax.conv_general_dilated_p, lower, platform="cpu")


def _by_taps(
    x: Any,
    kernel: Any,
    sizes: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> Any:
    """Sum over the elements of the window: (N, ..., C), padded, and (..., C, D) to (N, ..., D)."""
    places = list(itertools.product(*map(range, kernel.shape[:-2])))
    taps = kernel.reshape(-1, *kernel.shape[-2:])
    count = taps_at_once(len(places), x.shape[-1], len(x) * math.prod(sizes))
    found: Any = 0
    for i in range(0, len(places), count):
        parts = [
            _every(x, _scaled(place, dilations), sizes, strides) for place in places[i : i + count]
        ]
        rows = jnp.concatenate(parts, axis=-1)
        found = found + rows @ taps[i : i + count].reshape(-1, taps.shape[-1])
    return found


def _by_pixels(
    x: Any,
    kernel: Any,
    sizes: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> Any:
    """As `_by_taps`, one product for each element of the result."""
    weights = kernel.reshape(-1, kernel.shape[-1])
    found = [
        _every(x, _scaled(place, strides), kernel.shape[:-2], dilations).reshape(len(x), -1)
        @ weights
        for place in itertools.product(*map(range, sizes))
    ]
    return jnp.stack(found, axis=1).reshape(len(x), *sizes, -1)


def _scaled(place: Sequence[int], by: Sequence[int]) -> list[int]:
    return [i * factor for i, factor in zip(place, by, strict=True)]


def _every(x: Any, begin: Sequence[int], sizes: Sequence[int], steps: Sequence[int]) -> Any:
    """Return `sizes` elements of each spatial axis of (N, ..., C), the first and every step-th."""
    end = [b + (n - 1) * s + 1 for b, n, s in zip(begin, sizes, steps, strict=True)]
    return lax.slice(x, (0, *begin, 0), (len(x), *end, x.shape[-1]), (1, *steps, 1))
