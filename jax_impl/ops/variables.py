"""Variables of Flax NNX."""

from __future__ import annotations

import jax
from flax import nnx


def store(variable: nnx.Variable, value: jax.Array) -> None:
    """What `variable[...] = value` does, which takes a second more to trace for ENet.

    For that, Flax compares shardings; while JAX traces there are none, and to say so it looks
    through all that was traced before.
    """
    variable.set_value(value.astype(variable[...].dtype))
