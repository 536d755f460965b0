"""The equations of a traced program, with the layers that they are in."""

from __future__ import annotations

from collections.abc import Iterator

from jax.extend.core import Jaxpr, JaxprEqn
from jax.extend.core import primitives as p

from parity.capture.jaxprs import subjaxprs
from parity.capture.marks import BEGIN, SITES, mark_p

OPAQUE = {p.custom_jvp_call_p, p.custom_vjp_call_p, p.while_p}  # yielded whole


def equations(jaxpr: Jaxpr, opaque: bool = True) -> Iterator[tuple[JaxprEqn, str]]:
    """Yield the equations of a program and of the programs within, in order.

    Args:
        jaxpr: The program, with marks around its layers; see `parity.capture.marks`.
        opaque: Yield functions with rules of their own, and loops, whole.

    Yields:
        An equation and the innermost layer that it is in, empty outside of any.
    """
    yield from _within(jaxpr, [], opaque)


def _within(jaxpr: Jaxpr, begun: list[str], opaque: bool) -> Iterator[tuple[JaxprEqn, str]]:
    for eqn in jaxpr.eqns:
        if eqn.primitive is mark_p:
            if eqn.params["place"] == BEGIN:
                begun.append(SITES[eqn.params["call"]].layer)
            else:
                begun.pop()
            continue
        inner = [] if opaque and eqn.primitive in OPAQUE else list(subjaxprs(eqn))
        for part in inner:
            yield from _within(part, begun, opaque)
        if not inner:
            yield eqn, begun[-1] if begun else ""
