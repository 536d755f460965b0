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
from jax.extend.core import Jaxpr, JaxprEqn

from parity.capture.jaxprs import subjaxprs

LEAST = 1 << 23  # products of numbers: below, compiling takes longer than what is saved
MOST_TAPS = 64  # elements of a kernel's window; each is a product of its own
FEW = 64  # channels: products of fewer are slow, so elements of the window are taken together
MOST_PRODUCTS = 16  # and so are those of a large window, each of which is compiled
MOST_BYTES = 1 << 28  # of what is taken together


def is_slow(eqn: JaxprEqn, values: Sequence[Any]) -> bool:
    """Return whether an equation is a large convolution of float64 numbers on a CPU.

    Args:
        eqn: The equation.
        values: What it is to be evaluated on, or their shapes and types.
    """
    if eqn.primitive.name != "conv_general_dilated" or jax.default_backend() != "cpu":
        return False
    if any(v.dtype != jnp.float64 for v in values):
        return False
    if eqn.params["feature_group_count"] != 1 or eqn.params["batch_group_count"] != 1:
        return False
    specs, shape = eqn.params["dimension_numbers"], values[1].shape
    window = math.prod(shape[i] for i in specs.rhs_spec[2:])
    work = math.prod(shape_of(eqn)) * window * shape[specs.rhs_spec[1]]
    return window <= MOST_TAPS and work >= LEAST


def has_slow(jaxpr: Jaxpr) -> bool:
    """Return whether an equation of a program `is_slow`, in the types that it was traced for."""
    return any(
        is_slow(eqn, [v.aval for v in eqn.invars]) or any(map(has_slow, subjaxprs(eqn)))
        for eqn in jaxpr.eqns
    )


def shape_of(eqn: JaxprEqn) -> tuple[int, ...]:
    """Return the shape of an equation's first result."""
    return tuple(getattr(eqn.outvars[0].aval, "shape", ()))


def by_products(eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Evaluate a convolution that `is_slow`; see `jax.lax.conv_general_dilated`."""
    # A gradient computes the parts of the image anew; kept, they were many times its size.
    product = jax.checkpoint(functools.partial(_product, eqn.params, shape_of(eqn)))
    return [product(*values)]


def window_elements(taps: int, channels: int, pixels: int) -> int:
    """Return of how many elements of a window the product is computed at once.

    Args:
        taps: Elements of the window.
        channels: Of the image.
        pixels: Of the result, of all images.
    """
    wanted = max(FEW // channels, taps // MOST_PRODUCTS, 1)
    return min(wanted, max(MOST_BYTES // max(8 * channels * pixels, 1), 1))


def _product(params: Mapping[str, Any], shape: Sequence[int], lhs: Any, rhs: Any) -> Any:
    specs = params["dimension_numbers"]
    batch, feature, *spatial = specs.lhs_spec
    out_features, in_features, *window = specs.rhs_spec
    x = lhs.transpose(batch, *spatial, feature)
    kernel = rhs.transpose(*window, in_features, out_features)
    padding = zip(params["padding"], params["lhs_dilation"], strict=True)
    config = [(0, 0, 0), *((lo, hi, d - 1) for (lo, hi), d in padding), (0, 0, 0)]
    x = lax.pad(x, np.zeros((), x.dtype), config)
    sizes, strides = [shape[i] for i in specs.out_spec[2:]], params["window_strides"]

    def seen_by(place: Sequence[int]) -> Any:
        """Return what one element of the kernel's window is multiplied by."""
        begin = [i * d for i, d in zip(place, params["rhs_dilation"], strict=True)]
        ends = zip(begin, sizes, strides, strict=True)
        end = [b + (n - 1) * s + 1 for b, n, s in ends]
        return lax.slice(x, (0, *begin, 0), (len(x), *end, x.shape[-1]), (1, *strides, 1))

    places = list(itertools.product(*map(range, kernel.shape[:-2])))
    taps = kernel.reshape(-1, *kernel.shape[-2:])
    size = window_elements(len(places), x.shape[-1], len(x) * math.prod(sizes))
    found: Any = 0
    for i in range(0, len(places), size):
        rows = jnp.concatenate([seen_by(place) for place in places[i : i + size]], axis=-1)
        found = found + rows @ taps[i : i + size].reshape(-1, taps.shape[-1])
    order = np.argsort([specs.out_spec[0], *specs.out_spec[2:], specs.out_spec[1]])
    return found.transpose(order)
