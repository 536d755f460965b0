"""How far networks move where constants that are known in float32 alone are disturbed."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from parity.capture.records import RunRecord
from parity.ladder import tolerances
from parity.ladder.flattening import flattened
from parity.ladder.keys import Flat, Key
from parity.ladder.tolerances import difference
from parity.spec import draw
from parity.trace.side import RecordedSide

if TYPE_CHECKING:
    from parity.ladder.runs import Runs


class Drift:
    """How far both sides of a port move, each mode measured once.

    Args:
        runs: Both sides.
    """

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.found: dict[bool, dict[Key, float]] = {}

    def __call__(self, train: bool) -> dict[Key, float]:
        """Return how far both sides move in one mode, by the quantity."""
        runs = self.runs
        if train not in self.found:
            noise = tolerances.ROUNDING["float32"]
            found: dict[Key, float] = {}
            if self.constants and not isinstance(runs.reference64, RecordedSide):
                rng = draw.generator(0, "constants")
                moved = runs.reference64.with_noise(self.constants, noise, rng)
                self._add_drift(found, runs.flat(train), runs.run(moved, train), train, False)
            if runs.port64.rounded:
                plain = flattened(runs, runs.run(runs.port64, train), train, ported=True)
                noisy = runs.run(runs.port64, train, noise=noise)
                self._add_drift(found, plain, noisy, train, True)
            self.found[train] = found
        return self.found[train]

    def _add_drift(
        self, found: dict[Key, float], plain: Flat, moved: RunRecord, train: bool, ported: bool
    ) -> None:
        for key, array in flattened(self.runs, moved, train, ported).items():
            distance = difference(array, plain.get(key)).distance
            if np.isfinite(distance):
                found[key] = found.get(key, 0.0) + distance

    @functools.cached_property
    def constants(self) -> list[str]:
        """Return the reference's constants that float32 holds rounded."""
        weights = set(self.runs.reference64.state())
        if not callable(self.runs.port.weights):
            weights -= self.runs.assignment.idle - self.runs.assignment.tied
        else:
            names = self.runs.port64.state().keys() - self.runs.assignment.fixed
            sources = {name: self.runs.tensors.keys(name) for name in names}
            if all(sources.values()):  # where each number comes from is known
                weights = {key for keys in sources.values() for key in keys}
        return self.runs.reference64.constants(weights)
