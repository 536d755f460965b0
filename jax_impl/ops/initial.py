"""Initial weights of a layer."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx


def uniform(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> jax.Array:
    """Draw by PyTorch's default: U(-b, b), b = 1 / sqrt(fan_in).

    Drawn in blocks of one size: XLA's CPU backend takes half a second to compile a draw of each new
    shape, 20 s for ENet.
    """
    bound, size, block = 1 / math.sqrt(fan_in), math.prod(shape), 1 << 14
    keys = jax.random.split(rngs.params(), -(-size // block))
    flat = [jax.random.uniform(key, (block,), minval=-bound, maxval=bound) for key in keys]
    return jnp.concatenate(flat)[:size].reshape(shape)


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], deviation: float = 1.0) -> jax.Array:
    """Draw from a normal distribution around 0."""
    return deviation * jax.random.normal(rngs.params(), shape)
