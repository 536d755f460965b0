"""Equations of jaxprs: binding one on other values, and looking into what they hold."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from parity.capture.marks import BEGIN, mark_p


def bind(eqn: JaxprEqn, values: Sequence[Any], params: dict[str, Any] | None = None) -> list[Any]:
    """Bind an equation on other values."""
    params = eqn.primitive.get_bind_params(eqn.params if params is None else params)
    found = eqn.primitive.bind(*values, **params)
    return list(found) if eqn.primitive.multiple_results else [found]


def subjaxprs(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """Yield the programs that an equation holds."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def constants(closed: ClosedJaxpr) -> Iterator[Any]:
    """Yield the arrays that a program holds, and those of the programs inside it."""
    yield from closed.consts
    yield from _inner_constants(closed.jaxpr)


def _inner_constants(jaxpr: Jaxpr) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        for value in eqn.params.values():
            for item in value if isinstance(value, tuple | list) else (value,):
                if isinstance(item, ClosedJaxpr):
                    yield from constants(item)
                elif isinstance(item, Jaxpr):
                    yield from _inner_constants(item)


# Whose functions with gradient rules of their own are the same in every trace.
LIBRARIES = tuple(
    f"{folder}{os.sep}"
    for folder in (
        Path(jax.__file__).parent,
        Path(flax.__file__).parent,
        Path(__file__).resolve().parents[2] / "jax_impl",
    )
)
# Their files that wrap a function of somebody else's.
WRAPPERS = {"autodiff.py", "custom_derivatives.py", "lift.py", "transforms.py"}


def has_foreign_rules(jaxpr: Jaxpr) -> bool:
    """Return whether gradients may follow rules of a user's, which a program does not show.

    A rule is traced when gradients are taken, and may then depend on what has changed since.
    """
    return any(
        _is_foreign_rule(eqn) or any(map(has_foreign_rules, subjaxprs(eqn))) for eqn in jaxpr.eqns
    )


def _is_foreign_rule(eqn: JaxprEqn) -> bool:
    if eqn.primitive.name not in ("custom_jvp_call", "custom_vjp_call"):
        return False
    debug_info = getattr(eqn.params["call_jaxpr"].jaxpr, "debug_info", None)
    source = getattr(debug_info, "func_src_info", None) or ""  # name at /path/file.py:1
    path = Path(source.partition(" at ")[2].rpartition(":")[0])
    return not str(path).startswith(LIBRARIES) or path.name in WRAPPERS


def has_marks(jaxpr: Jaxpr) -> bool:
    """Return whether a layer is called in a program."""
    return any(eqn.primitive is mark_p or any(map(has_marks, subjaxprs(eqn))) for eqn in jaxpr.eqns)


def sites_of(jaxpr: Jaxpr) -> Iterator[int]:
    """Yield the numbers of the calls that are marked in a program."""
    for eqn in jaxpr.eqns:
        if eqn.primitive is mark_p and eqn.params["place"] == BEGIN:
            yield eqn.params["call"]
        for inner in subjaxprs(eqn):
            yield from sites_of(inner)


def has_narrow(jaxpr: Jaxpr) -> bool:
    """Return whether a program computes in a narrower type than float64 anywhere."""
    return any(narrow_equation(eqn) or any(map(has_narrow, subjaxprs(eqn))) for eqn in jaxpr.eqns)


def narrow_equation(eqn: JaxprEqn) -> bool:
    """Return whether an equation takes or gives a number narrower than float64."""
    return any(is_narrow(getattr(v.aval, "dtype", None)) for v in (*eqn.invars, *eqn.outvars))


def is_narrow(dtype: Any) -> bool:
    """Return whether it is a floating-point type narrower than float64."""
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return False
    return np.dtype(dtype).itemsize < 8


def is_key(leaf: Any) -> bool:
    """Return whether it is a random key, as `jax.random.key` makes them."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
