"""Linear interpolation along one axis."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jax_impl.ops.precision import wide


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def interpolate(x: jax.Array, axis: int, n: int, align_corners: bool) -> jax.Array:
    """Interpolate linearly along one axis, to n places.

    Forward by a gather, backward by a matrix. On one busy core, best of 7, both axes, in ms: 19
    channels from 128x256 to 512x1024 by gathers 123, by matrices 507; 128 channels from 64x128 to
    128x256 1.2 and 73. Forward and backward: by gathers and their scatters 457 and 223, by gathers
    and matrices 359 and 139.
    """
    if x.shape[axis] == n:
        return x
    low, high, share = places(x.shape[axis], n, align_corners)
    y = wide(x)
    spread = share.reshape((-1,) + (1,) * (x.ndim - 1 - axis)).astype(y.dtype)
    y = jnp.take(y, low, axis) * (1 - spread) + jnp.take(y, high, axis) * spread
    return y.astype(x.dtype)


def interpolate_forward(x: jax.Array, axis: int, n: int, align_corners: bool) -> tuple:
    return interpolate(x, axis, n, align_corners), x.shape[axis]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def interpolate_backward(axis: int, n: int, align_corners: bool, size: int, dy: jax.Array) -> tuple:
    """Compute the gradient by a matrix product; a scatter-add is slow on XLA's CPU backend."""
    low, high, share = places(size, n, align_corners)
    matrix = np.zeros((n, size))
    np.add.at(matrix, (np.arange(n), low), 1 - share)
    np.add.at(matrix, (np.arange(n), high), share)
    terms = wide(dy)
    dx = jnp.tensordot(terms, matrix.astype(terms.dtype), ((axis,), (0,)))
    return (jnp.moveaxis(dx, -1, axis).astype(dy.dtype),)


interpolate.defvjp(interpolate_forward, interpolate_backward)


def places(size: int, n: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for each of n output places, its two neighbours and the second one's weight."""
    if align_corners:
        at = np.arange(n) * ((size - 1) / max(n - 1, 1))
    else:
        at = np.maximum((np.arange(n) + 0.5) * (size / n) - 0.5, 0)
    low = np.minimum(at.astype(np.int32), size - 1)
    return low, np.minimum(low + 1, size - 1), np.clip(at - low, 0, 1)
