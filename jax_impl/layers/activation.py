"""Activations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jax_impl.ops.activation import prelu
from jax_impl.ops.precision import cast


class PReLU(nnx.Module):
    """x where it is positive, else its product with a learned slope; at 0 the slope's gradient."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25, *, rngs: nnx.Rngs) -> None:
        self.compute_dtype: str | None = None  # as of a convolution
        self.negative_slope = nnx.Param(jnp.full(num_parameters, init))

    def __call__(self, x: jax.Array) -> jax.Array:
        return prelu(*cast(self.compute_dtype, x, self.negative_slope[...]))


class ReLU(nnx.Module):
    """x where it is positive, else 0."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        pass

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x)


class Sigmoid(nnx.Module):
    """1 / (1 + exp(-x))."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        pass

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(x)


class GELU(nnx.Module):
    """x times the normal distribution function of x, exactly; not its approximation by a tanh."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        pass

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.gelu(x, approximate=False)


class SiLU(nnx.Module):
    """x / (1 + exp(-x))."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        pass

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.silu(x)
