"""Batch normalisation over one device's batch or over all devices' batches."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.jit, static_argnums=5)
def normalize(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> jax.Array:
    return ((x - mean) * (scale / jnp.sqrt(var + eps)) + bias).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
@functools.partial(jax.jit, static_argnums=(3, 4))
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, axis: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise by the batch: y, and its mean and biased variance, which carry no gradient.

    The gradient is written out (Ioffe and Szegedy 2015, section 3): the derived one compiles and
    runs half as long again.
    """
    wide = x.astype(jnp.promote_types(x.dtype, scale.dtype))
    mean = over(axis, wide.mean(axis=(0, 1, 2)))
    # Two passes: E[x^2] - E[x]^2 cancels where the mean is large (Flax's fast variance).
    var = over(axis, jnp.square(wide - mean).mean(axis=(0, 1, 2)))
    return normalize(x, mean, var, scale, bias, eps), mean, var


def batch_norm_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, axis: str | None
) -> tuple:
    y, mean, var = batch_norm(x, scale, bias, eps, axis)
    return (y, mean, var), (x, scale, mean, var)


@functools.partial(jax.jit, static_argnums=(0, 1))
def batch_norm_backward(eps: float, axis: str | None, saved: tuple, cotangents: tuple) -> tuple:
    (x, scale, mean, var), dy, n = saved, cotangents[0], saved[0].size // saved[0].shape[-1]
    dy = dy.astype(jnp.promote_types(dy.dtype, scale.dtype))
    inverse = 1 / jnp.sqrt(var + eps)
    normal = (x - mean) * inverse
    d_scale, d_bias = (dy * normal).sum(axis=(0, 1, 2)), dy.sum(axis=(0, 1, 2))
    # Over all devices, whose parts are equal: the gradient of the sum of their losses.
    dx = (scale * inverse) * (dy - (over(axis, d_bias) + normal * over(axis, d_scale)) / n)
    return dx.astype(x.dtype), d_scale, d_bias


batch_norm.defvjp(batch_norm_forward, batch_norm_backward)


def over(axis: str | None, part: jax.Array) -> jax.Array:
    """Average over all devices, if there is a device axis."""
    return part if axis is None else jax.lax.pmean(part, axis)


def count(x: jax.Array, axis: str | None) -> int:
    """Return the number of values per channel, on all devices."""
    return x.size // x.shape[-1] * (1 if axis is None else jax.lax.axis_size(axis))
