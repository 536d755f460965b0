"""Upper bounds in a JAX network, such as ReLU6's 6, and the network without them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from parity.capture.interpreter import INLINED, Change
from parity.capture.jaxprs import subjaxprs
from parity.capture.source_lines import line_of
from parity.report.source import NO_LINE, SourceLine

LEAST, MOST = (
    1e-2,
    1e30,
)  # of a bound that values may reach: not an eps, nor what stands for infinity
SAME_VALUE = {"broadcast_in_dim", "convert_element_type", "copy", "copy_p", "reshape", "squeeze"}


class Cap(NamedTuple):
    """An equation that cuts values off above.

    Attributes:
        eqn: The equation.
        bound: Where.
        change: What is evaluated instead to cut nothing off.
        line: The line of the user's code; false where there is none.
    """

    eqn: JaxprEqn
    bound: float
    change: Change
    line: SourceLine


def caps(
    jaxpr: Jaxpr, known: Mapping[Any, float] | None = None, at: SourceLine = NO_LINE
) -> Iterator[Cap]:
    """Yield the upper bounds of a program that are constants.

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
        elif name in ("min", "clamp"):
            yield from _of(eqn, given, line_of(eqn) or at)
        inner = list(subjaxprs(eqn))
        passed = eqn.primitive in INLINED and len(inner) == 1
        for part in inner:
            pairs = zip(part.invars, given, strict=True) if passed else ()
            constants = {var: value for var, value in pairs if value is not None}
            yield from caps(part, constants, line_of(eqn) or at)


def _of(eqn: JaxprEqn, given: list[float | None], line: SourceLine) -> Iterator[Cap]:
    made: Any = eqn.outvars[0].aval
    if not jnp.issubdtype(made.dtype, jnp.floating):
        return
    places = (2,) if eqn.primitive.name == "clamp" else (0, 1)
    for place in places:
        bound = given[place]
        if bound is None or not LEAST <= bound <= MOST:
            continue

        def without(eqn: JaxprEqn, values: list[Any], place: int = place) -> list[Any]:
            del eqn
            if len(values) == 3:
                return [jnp.maximum(values[0], values[1])]
            return [jnp.broadcast_to(values[1 - place], made.shape)]

        yield Cap(eqn, bound, without, line)
