"""Assignment to variables of Flax NNX."""

from __future__ import annotations

import jax
from flax import nnx


def store(variable: nnx.Variable, value: jax.Array) -> None:
    """Do what `variable[...] = value` does, which takes a second more to trace for ENet.

    Flax compares shardings in that assignment; while JAX traces there are none, and to find that
    out it searches everything that was traced before.
    """
    variable.set_value(value.astype(variable[...].dtype))
