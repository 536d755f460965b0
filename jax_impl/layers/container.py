"""Layers made of layers."""

from __future__ import annotations

import jax
from flax import nnx


class Sequential(nnx.Module):
    """Layers one after the other, named 0, 1, 2, ... as in PyTorch."""

    def __init__(self, *layers: nnx.Module) -> None:
        self.length = len(layers)
        for i, layer in enumerate(layers):
            setattr(self, str(i), layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.length):
            x = getattr(self, str(i))(x)
        return x
