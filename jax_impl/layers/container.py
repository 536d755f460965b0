"""Containers of other layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import jax
from flax import nnx


class Identity(nnx.Module):
    """Returns its input unchanged."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        pass

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


class ModuleList(nnx.Module):
    """Layers to go through, named 0, 1, 2, ... as in PyTorch."""

    def __init__(self, modules: Iterable[nnx.Module]) -> None:
        self.length = 0
        for i, module in enumerate(modules):
            setattr(self, str(i), module)
            self.length = i + 1

    def __iter__(self) -> Iterator[nnx.Module]:
        return (getattr(self, str(i)) for i in range(self.length))


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
