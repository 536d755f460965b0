"""Switching off what a Flax layer draws by itself, which the other side cannot share."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen, nnx

from parity.capture.rates import drops_paths, set_rates


def silence(layer: Any) -> None:
    """Set the rate of an NNX layer that drops anything to 0.

    Such are Flax's dropouts, layers that are called DropPath or StochasticDepth, and any layer that
    holds a stream of random numbers and a rate, such as `nnx.MultiHeadAttention`.
    """
    streams = (nnx.Rngs, nnx.RngStream)
    draws = any(isinstance(value, streams) for value in vars(layer).values())
    if draws or isinstance(layer, nnx.Dropout) or drops_paths(layer):
        set_rates(layer)


def is_dropout(layer: linen.Module) -> bool:
    """Return whether a Linen layer does nothing but drop; attention's own dropout is set to 0."""
    if isinstance(layer, linen.MultiHeadDotProductAttention):
        object.__setattr__(layer, "dropout_rate", 0.0)  # of the copy that is being called
    return isinstance(layer, linen.Dropout) or drops_paths(layer)


def draws() -> dict[str, jax.Array]:
    """Return keys for a Linen module that asks for some; Flax takes this one under any name."""
    return {"params": jax.random.key(0)}
