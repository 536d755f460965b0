"""Activations."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_impl.ops.precision import wide


@jax.jit
def prelu(x: jax.Array, slope: jax.Array) -> jax.Array:
    return jnp.where(x > 0, x, (wide(slope) * wide(x)).astype(x.dtype))
