"""Fully connected layers; kernels are (in, out)."""

from __future__ import annotations

import jax
from flax import nnx

from jax_impl.ops.initial import uniform
from jax_impl.ops.precision import add_bias, cast


class Linear(nnx.Module):
    """(N, in) to (N, out); weights start as PyTorch's do: U(-b, b) with b = 1 / sqrt(in)."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, rngs: nnx.Rngs
    ) -> None:
        self.compute_dtype: str | None = None
        self.kernel = nnx.Param(uniform(rngs, (in_features, out_features), fan_in=in_features))
        self.bias = (
            nnx.Param(uniform(rngs, (out_features,), fan_in=in_features))
            if bias
            else nnx.data(None)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        x, kernel = cast(self.compute_dtype, x, self.kernel[...])
        y = x @ kernel
        return add_bias(y, self.bias, self.compute_dtype)
