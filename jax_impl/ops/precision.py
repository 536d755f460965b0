"""The precision in which a layer computes and accumulates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


def cast(dtype: str | None, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Cast arrays to the layer's `compute_dtype`; without one, return them unchanged."""
    return arrays if dtype is None else tuple(a.astype(dtype) for a in arrays)


def wide(x: jax.Array) -> jax.Array:
    """Cast to float32 at least, for values that are summed, if only in the gradient.

    XLA's CPU backend accumulates in the precision it is given: the sum of 16,384 numbers from 0 to
    1 in bfloat16 came to an eighth of its true value.
    """
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def add_bias(y: jax.Array, bias: nnx.Param | None, dtype: str | None) -> jax.Array:
    """Add the bias, if there is one, in the layer's `compute_dtype`; its gradient is a long sum."""
    if bias is None:
        return y
    return (wide(y) + wide(*cast(dtype, bias[...]))).astype(y.dtype)
