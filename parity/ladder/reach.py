"""Inputs in eval mode that reach the bounds inside the reference, such as ReLU6's 6."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from parity.capture.torch_bounds import Bound, Reached
from parity.ladder.port import Port

SCALES = (1.0, 8.0, 64.0, 512.0)  # by which drawn inputs are multiplied, until all is reached

Arrays = tuple[np.ndarray, ...]


class Reach(NamedTuple):
    """Inputs, and what they do not reach.

    Attributes:
        inputs: In eval mode.
        scale: By which drawn inputs were multiplied.
        missed: Bounds that values do not reach, or not from both sides.
    """

    inputs: Arrays
    scale: float
    missed: list[Bound]

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
    given, drawn = port.arrays(False), port.drawn(False)
    best = Reach(given, 1.0, [])
    for scale in SCALES if any(drawn) else SCALES[:1]:
        inputs = tuple(
            (a * scale).astype(a.dtype) if scaled else a
            for a, scaled in zip(given, drawn, strict=True)
        )
        with Reached() as reached:
            run(inputs)
        if scale == 1 or len(reached.missed) < len(best.missed):
            best = Reach(inputs, scale, reached.missed)
        if not best.missed:
            break
    return best
