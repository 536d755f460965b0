"""Switching off what a Flax layer draws by itself, which the other side cannot share."""

from __future__ import annotations

import functools
import inspect
import types
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


def silence_linen(layer: linen.Module) -> bool:
    """Switch off what a Linen layer drops inside; return whether it does nothing but drop.

    Args:
        layer: The copy that is being called. If its code asks for a random key, the rates that it
            or its settings hold become 0.
    """
    if isinstance(layer, linen.Dropout) or drops_paths(layer):
        return True
    kind: Any = type(layer)
    if isinstance(layer, linen.MultiHeadDotProductAttention) or asks_for_keys(kind):
        set_rates(layer, object.__setattr__)
    return False


@functools.cache
def asks_for_keys(kind: Any) -> bool:
    """Return whether a Linen class's own code calls `make_rng`."""
    own = (cls for cls in kind.__mro__ if not cls.__module__.startswith("flax."))
    return any(_names(inspect.unwrap(v), "make_rng") for cls in own for v in vars(cls).values())


def _names(value: Any, name: str) -> bool:
    """Return whether a function, or one inside it, calls something of that name."""
    code = value if isinstance(value, types.CodeType) else getattr(value, "__code__", None)
    if not isinstance(code, types.CodeType):
        return False
    return name in code.co_names or any(_names(c, name) for c in code.co_consts)


def draws() -> dict[str, jax.Array]:
    """Return keys for a Linen module that asks for some; Flax takes this one under any name."""
    return {"params": jax.random.key(0)}
