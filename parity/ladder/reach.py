"""Inputs in eval mode that reach the bounds inside both networks, such as ReLU6's 6."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from parity.capture.jax_bounds import caps
from parity.capture.jax_side import JaxSide
from parity.capture.torch_bounds import Bound, Reached
from parity.ladder.port import Port

SCALES = (1.0, 8.0, 64.0, 512.0)  # by which drawn inputs are multiplied, until all is reached
# JAX's own are made of a ReLU6, whose bound is reached with theirs.
MADE_OF = {"hardswish": 6.0, "hardsigmoid": 6.0}
NEAR = 1e-6  # of a bound that one side holds in float32

Arrays = tuple[np.ndarray, ...]


class Reach(NamedTuple):
    """Inputs, and what they do not reach.

    Attributes:
        inputs: In eval mode.
        scale: By which drawn inputs were multiplied.
        missed: Bounds that values do not reach, or not from both sides.
        bounds: Those of the reference, as a port writes them.
    """

    inputs: Arrays
    scale: float
    missed: list[Bound]
    bounds: frozenset[float] = frozenset()

    def notes(self) -> list[str]:
        """Return a line that says how inputs were drawn, if it was otherwise than usual."""
        if self.scale == 1:
            return []
        return [f"inputs in eval mode are {self.scale:g} times wider, so that values reach bounds"]

    def unseen(self) -> list[str]:
        """Return a line for each bound that is not reached."""
        return [
            f"no values lie on both sides of {bound:g}, where {name} changes"
            + (f" [{line}]" if line else "")
            for name, bound, line in self.missed
        ]


def reaching(port: Port, run: Callable[[Arrays], object]) -> Reach:
    """Find inputs in eval mode that reach the bounds inside the reference.

    Inputs that are given stay as they are. Drawn ones are multiplied by the smallest of `SCALES`
    with which the fewest bounds are missed.

    Args:
        port: The port.
        run: Runs the reference in eval mode.
    """
    best = Reach(port.arrays(False), 1.0, [])
    for scale, inputs in _wider(port):
        with Reached() as reached:
            run(inputs)
        if scale == 1 or len(reached.missed) < len(best.missed):
            bounds = frozenset(MADE_OF.get(name, bound) for name, bound, _ in reached.found)
            best = Reach(inputs, scale, reached.missed, bounds)
        if not best.missed:
            break
    return best


def _wider(port: Port, least: float = 1.0) -> Iterator[tuple[float, Arrays]]:
    """Yield inputs of which the drawn ones are multiplied by each of `SCALES`."""
    given, drawn = port.arrays(False), port.drawn(False)
    for scale in SCALES if any(drawn) else SCALES[:1]:
        if scale >= least:
            yield (
                scale,
                tuple(
                    (a * scale).astype(a.dtype) if scaled else a
                    for a, scaled in zip(given, drawn, strict=True)
                ),
            )


def reaching_too(
    found: Reach, port: Port, side: JaxSide, run: Callable[[JaxSide, Arrays], Sequence[np.ndarray]]
) -> Reach:
    """Find inputs that reach the upper bounds which the port alone has, too.

    A bound is reached where the port without it returns something else. Only where the port has
    bounds at other places than the reference is it run for that.

    Args:
        found: What reaches the reference's bounds.
        port: The port.
        side: The port in float64.
        run: Runs a side of the port in eval mode, and returns its outputs.
    """
    program = side.jaxpr(found.inputs, False).jaxpr
    own = [cap for cap in caps(program) if not _is_known(cap.bound, found.bounds)]
    if not own:
        return found
    free = side.changed({False: {id(cap.eqn): cap.change for cap in own}})
    for scale, inputs in _wider(port, found.scale):
        outputs = zip(run(side, inputs), run(free, inputs), strict=True)
        if not all(np.array_equal(a, b, equal_nan=True) for a, b in outputs):
            return found._replace(inputs=inputs, scale=scale)
    missed = [("the port's min", cap.bound, cap.line) for cap in own]
    return found._replace(missed=[*found.missed, *missed])


def _is_known(bound: float, bounds: Collection[float]) -> bool:
    return any(abs(bound - other) <= NEAR * abs(other) for other in bounds)
