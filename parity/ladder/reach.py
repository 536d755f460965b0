"""Inputs in eval mode that reach the bounds inside both networks, such as ReLU6's 6."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from parity.capture.jax_bounds import Cap, caps, removed, watched
from parity.capture.jax_side import JaxSide
from parity.capture.records import ForwardError
from parity.capture.torch_bounds import Bound, Reached
from parity.ladder.port import Port
from parity.trace.side import RecordedSide

if TYPE_CHECKING:
    from parity.ladder.runs import Runs

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
        bounds: Those of the reference, as a port writes them, one for each call.
    """

    inputs: Arrays
    scale: float
    missed: list[Bound]
    bounds: tuple[float, ...] = ()

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
            for name, bound, line in dict.fromkeys(self.missed)
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
            best = Reach(inputs, scale, reached.missed, tuple(_as_ported(reached.found)))
        if not best.missed:
            break
    return best


def _as_ported(found: Counter[Bound]) -> Iterator[float]:
    for name, bound, _ in found.elements():
        if name not in MADE_OF:
            yield bound
        elif bound > 0:
            yield MADE_OF[name]


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
    """Find inputs that reach the bounds which the port alone has, too.

    A bound is reached where the port without it returns something else. One that the reference
    holds at fewer places is reached where it cuts off values at each. Only where the port has
    bounds at other places than the reference is it run for that.

    Args:
        found: What reaches the reference's bounds.
        port: The port.
        side: The port in float64.
        run: Runs a side of the port in eval mode, and returns its outputs.
    """
    every = list(caps(side.jaxpr(found.inputs, False).jaxpr))
    own = [cap for cap in every if not _times(cap.bound, found.bounds)]
    more = [cap for cap in every if cap not in own and _is_more(cap, every, found.bounds)]
    if not own and not more:
        return found
    for scale, inputs in _wider(port, found.scale):
        if _changes_outputs(own, side, inputs, run) and _cuts_off(more, side, inputs, run):
            return found._replace(inputs=inputs, scale=scale)
    missed = [(f"the port's {cap.eqn.primitive.name}", cap.bound, cap.line) for cap in own + more]
    return found._replace(missed=[*found.missed, *missed])


def _changes_outputs(
    own: Sequence[Cap],
    side: JaxSide,
    inputs: Arrays,
    run: Callable[[JaxSide, Arrays], Sequence[np.ndarray]],
) -> bool:
    """Return whether the port without these bounds returns something else; true of no bounds."""
    free = side.changed({False: removed(own)})
    outputs = zip(run(side, inputs), run(free, inputs), strict=True) if own else ()
    return not own or not all(np.array_equal(a, b, equal_nan=True) for a, b in outputs)


def _cuts_off(
    more: Sequence[Cap],
    side: JaxSide,
    inputs: Arrays,
    run: Callable[[JaxSide, Arrays], Sequence[np.ndarray]],
) -> bool:
    """Return whether each of these bounds cuts off values, whenever it is evaluated."""
    reached: list[bool] = []
    with jax.disable_jit(bool(more)):  # so that values are known
        if more:
            run(side.changed({False: watched(more, reached)}), inputs)
    return all(reached)


def _is_more(cap: Cap, every: Iterable[Cap], bounds: Iterable[float]) -> bool:
    """Return whether a port holds a bound at more places than the reference."""
    return _times(cap.bound, [other.bound for other in every]) > _times(cap.bound, bounds)


def _times(bound: float, others: Iterable[float]) -> int:
    return sum(abs(bound - other) <= NEAR * abs(other) for other in others)


def of_both(runs: Runs) -> Reach:
    """Return inputs in eval mode that reach the bounds of both networks."""
    found = Reach(runs.inputs[False], 1.0, [])
    if isinstance(runs.reference64, RecordedSide):
        return found
    try:
        found = reaching(runs.port, lambda inputs: runs.run(runs.reference64, False, inputs))
        if not runs.failed:
            found = reaching_too(
                found,
                runs.port,
                runs.port64,
                lambda side, inputs: runs.run(side, False, inputs).outputs,
            )
    except ForwardError:  # it is explained where that side is run next
        pass
    return found
