"""Testing whether part of a jaxpr computes the same as an ONNX operator, by running both.

A part is recognised by its results, not by its name or how it is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from parity.export import folding

CALLS = {  # primitives that only run a jaxpr, once
    "checkpoint",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "jit",
    "pjit",
    "remat",
    "remat2",
}
HELD = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # under which they hold it
NEAR = 1e-4  # of float32, relative to the largest value

_known: dict[str, bool] = {}


def called(eqn: Any) -> Any | None:
    """Return the jaxpr that an equation runs, closed; none if it is no call."""
    if eqn.primitive.name not in CALLS:
        return None
    found = next((eqn.params[key] for key in HELD if key in eqn.params), None)
    return core.ClosedJaxpr(found, ()) if isinstance(found, core.Jaxpr) else found


def agrees(
    closed: Any, inputs: Sequence[np.ndarray], operator: str, model: Callable[..., Any]
) -> bool:
    """Return whether a jaxpr computes the same as a model of an operator.

    Args:
        closed: The jaxpr; a symbolic batch size is taken as 1.
        inputs: The inputs of both.
        operator: The model's name with all of its settings, under which the answer is cached.
        model: The operator as a JAX function of the same inputs.
    """
    text = f"{operator} {closed.jaxpr} {[(a.shape, a.dtype.name) for a in inputs]}"
    digest = hashlib.sha256(text.encode())
    for const in closed.consts:
        digest.update(np.ascontiguousarray(const).tobytes())
    key = digest.hexdigest()
    if key not in _known:
        _known[key] = _compared(closed, inputs, model)
    return _known[key]


def _compared(closed: Any, inputs: Sequence[np.ndarray], model: Callable[..., Any]) -> bool:
    try:
        found = jax.jit(lambda *a: evaluated(closed, a))(*inputs)
        expected = jax.jit(model)(*inputs)
    except Exception:  # it takes other arguments, or something else than arrays
        return False
    expected = expected if isinstance(expected, tuple) else (expected,)
    if [o.shape for o in found] != [o.shape for o in expected]:
        return False
    for a, b in zip(map(np.asarray, found), map(np.asarray, expected), strict=True):
        if a.dtype.kind != b.dtype.kind or not (np.isfinite(a) & np.isfinite(b)).all():
            return False
        if abs(a - b).max(initial=0) > NEAR * abs(b).max(initial=0) * (b.dtype.kind == "f"):
            return False
    return True


def evaluated(closed: Any, inputs: Sequence[Any]) -> list[Any]:
    """Evaluate a jaxpr for one image."""
    values: dict[Any, Any] = dict(zip(closed.jaxpr.invars, inputs, strict=True))
    values |= zip(closed.jaxpr.constvars, closed.consts, strict=True)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for eqn in closed.jaxpr.eqns:
        given, inner = [read(v) for v in eqn.invars], called(eqn)
        outputs = folding.bound(eqn, given) if inner is None else evaluated(inner, given)
        values |= zip(eqn.outvars, outputs, strict=True)
    return [read(v) for v in closed.jaxpr.outvars]


def drawn(shape: Sequence[int | None], seed: int = 0) -> np.ndarray:
    """Draw test values: half multiples of 1/4, so that ties occur, and others down to 0.001."""
    rng, size = np.random.default_rng(seed), [n or 1 for n in shape]
    quarters = rng.integers(-8, 9, size) / 4
    others = rng.standard_normal(size) * 10 ** rng.uniform(-3, 0, size)
    return np.where(rng.random(size) < 0.5, quarters, others).astype(np.float32)
