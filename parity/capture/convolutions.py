"""Slow convolutions of a program that is evaluated one equation at a time."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn

from jax_impl.ops import float64_convolution
from parity.capture.jaxprs import subjaxprs


def is_slow(eqn: JaxprEqn, values: Sequence[Any]) -> bool:
    """Return whether an equation is a large convolution of float64 numbers on a CPU.

    Args:
        eqn: The equation.
        values: What it is to be evaluated on, or their shapes and types.
    """
    if eqn.primitive.name != "conv_general_dilated" or jax.default_backend() != "cpu":
        return False
    return float64_convolution.is_slow(eqn.params, _shape(eqn), *values)


def has_slow(jaxpr: Jaxpr) -> bool:
    """Return whether an equation of a program `is_slow`, in the types that it was traced for."""
    return any(
        is_slow(eqn, [v.aval for v in eqn.invars]) or any(map(has_slow, subjaxprs(eqn)))
        for eqn in jaxpr.eqns
    )


def by_products(eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Evaluate a convolution that `is_slow`; see `jax.lax.conv_general_dilated`."""
    # A gradient computes the parts of the image anew; kept, they were many times its size.
    product = functools.partial(float64_convolution.product, eqn.params, _shape(eqn))
    return [jax.checkpoint(product)(*values)]


def _shape(eqn: JaxprEqn) -> tuple[int, ...]:
    return tuple(getattr(eqn.outvars[0].aval, "shape", ()))
