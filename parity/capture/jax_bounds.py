"""Bounds in a JAX network, such as ReLU6's 6, and the network without them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from parity.capture.interpreter import INLINED, Change
from parity.capture.jaxprs import bind, subjaxprs
from parity.capture.source_lines import line_of
from parity.report.source import NO_LINE, SourceLine

# Of a bound's size that values may reach: it is no eps, and does not stand for infinity.
LEAST, MOST = 1e-2, 1e30
# Equations that cut values off: which operands are bounds, and whether upper ones.
PLACES: dict[str, tuple[tuple[int, bool], ...]] = {
    "min": ((0, True), (1, True)),
    "max": ((0, False), (1, False)),
    "clamp": ((0, False), (2, True)),
}
SAME_VALUE = {"broadcast_in_dim", "convert_element_type", "copy", "copy_p", "reshape", "squeeze"}


class Cap(NamedTuple):
    """An equation that cuts values off.

    Attributes:
        eqn: The equation.
        bound: Where: above a positive number, below a negative one.
        place: Which of its operands the bound is.
        line: The line of the user's code; false where there is none.
    """

    eqn: JaxprEqn
    bound: float
    place: int
    line: SourceLine


def caps(
    jaxpr: Jaxpr, known: Mapping[Any, float] | None = None, at: SourceLine = NO_LINE
) -> Iterator[Cap]:
    """Yield the bounds of a program that are constants: positive upper, and negative lower ones.

    A function that is called twice is one program: its bounds are yielded for each call.

    Args:
        jaxpr: The program.
        known: The values of those of its variables that are constants.
        at: The line of the user's code that calls it.
    """
    values = dict(known or {})

    def constant(atom: Any) -> float | None:
        if isinstance(atom, Literal):
            value = np.asarray(atom.val)
            is_real = any(jnp.issubdtype(value.dtype, k) for k in (jnp.floating, jnp.integer))
            return float(value) if value.ndim == 0 and is_real else None
        return values.get(atom)

    for eqn in jaxpr.eqns:
        given = [constant(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        if name in SAME_VALUE and given[0] is not None:
            values[eqn.outvars[0]] = given[0]
        elif name in PLACES:
            yield from _of(eqn, given, line_of(eqn) or at)
        inner = list(subjaxprs(eqn))
        passed = eqn.primitive in INLINED and len(inner) == 1
        for part in inner:
            pairs = zip(part.invars, given, strict=True) if passed else ()
            constants = {var: value for var, value in pairs if value is not None}
            yield from caps(part, constants, line_of(eqn) or at)


def _of(eqn: JaxprEqn, given: list[float | None], line: SourceLine) -> Iterator[Cap]:
    if not jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating):  # type: ignore[attr-defined] # of arrays
        return
    for place, is_upper in PLACES[eqn.primitive.name]:
        bound = given[place]
        if bound is not None and LEAST <= (bound if is_upper else -bound) <= MOST:
            yield Cap(eqn, bound, place, line)


def removed(found: Iterable[Cap]) -> dict[int, Change]:
    """Return changes with which these bounds, one or both of an equation, cut nothing off."""
    places: dict[int, set[int]] = {}
    for cap in found:
        places.setdefault(id(cap.eqn), set()).add(cap.place)

    def without(eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        gone = places[id(eqn)]
        if len(values) == 2:
            shape = eqn.outvars[0].aval.shape  # type: ignore[attr-defined] # of arrays
            return [jnp.broadcast_to(values[1 - min(gone)], shape)]
        low, x, high = values
        x = x if 0 in gone else jnp.maximum(low, x)
        return [x if 2 in gone else jnp.minimum(x, high)]

    return dict.fromkeys(places, without)


def watched(found: Iterable[Cap], reached: list[bool]) -> dict[int, Change]:
    """Return changes that change nothing: each notes, per call, whether values are cut off.

    Args:
        found: The bounds.
        reached: Is filled while the program is evaluated, with values that are known by then.
    """
    caps_of: dict[int, dict[int, Cap]] = {}
    for cap in found:
        caps_of.setdefault(id(cap.eqn), {})[cap.place] = cap

    def noting(eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        for cap in caps_of[id(eqn)].values():
            x = np.asarray(values[1 if len(values) == 3 else 1 - cap.place])
            reached.append(bool((x > cap.bound if cap.bound > 0 else x < cap.bound).any()))
        return bind(eqn, values)

    return dict.fromkeys(caps_of, noting)
