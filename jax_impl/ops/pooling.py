"""Pooling and unpooling."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Pair = tuple[int, int]


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def max_pool(
    x: jax.Array, kernel_size: int, stride: int, padding: int, size: Pair
) -> tuple[jax.Array, jax.Array]:
    (rows, columns), width, s = size, x.shape[2], stride
    corner = lax.broadcasted_iota(jnp.int32, (rows, columns, 1), 0) * (s * width)
    corner += lax.broadcasted_iota(jnp.int32, (rows, columns, 1), 1) * s
    rim = (padding, padding)
    x = jnp.pad(x, ((0, 0), rim, rim, (0, 0)), constant_values=-jnp.inf)
    best, indices = x[:, : s * (rows - 1) + 1 : s, : s * (columns - 1) + 1 : s], corner
    for i, j in itertools.product(range(kernel_size), range(kernel_size)):
        value = x[:, i : i + s * (rows - 1) + 1 : s, j : j + s * (columns - 1) + 1 : s]
        better = (value > best) | jnp.isnan(value)  # not >=: the first of equals stays
        best = jnp.where(better, value, best)
        indices = jnp.where(better, corner + (i * width + j), indices)
    return best, jnp.broadcast_to(indices, best.shape)


@functools.partial(jax.jit, static_argnums=(2, 3))
def max_unpool(x: jax.Array, indices: jax.Array, stride: int, size: Pair) -> jax.Array:
    (n, h, w, c), s, (height, width) = x.shape, stride, size

    def spread(a: jax.Array, fill: int) -> jax.Array:
        a = jnp.broadcast_to(a[:, :, None, :, None], (n, h, s, w, s, c)).reshape(n, h * s, w * s, c)
        rest = ((0, 0), (0, height - h * s), (0, width - w * s), (0, 0))
        return jnp.pad(a, rest, constant_values=fill)

    here = lax.broadcasted_iota(jnp.int32, (height, width, 1), 0) * width
    here += lax.broadcasted_iota(jnp.int32, (height, width, 1), 1)
    return jnp.where(spread(indices, -1) == here, spread(x, 0), 0)


def windows(n: int, bins: int) -> np.ndarray:
    """Return a mask of the pixels in each window: (bins, n) bool."""
    i, at = np.arange(bins)[:, None], np.arange(n)
    return (at >= i * n // bins) & (at < -(-(i + 1) * n // bins))
