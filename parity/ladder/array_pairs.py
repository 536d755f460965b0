"""Measuring what two traces hold, array by array."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.capture.fingerprints import SAME, fingerprint, same_print
from parity.capture.records import NETWORK, is_float
from parity.capture.run import FLOAT64
from parity.ladder.comparison import Compared
from parity.ladder.orders import Order, closest, fitting, near
from parity.ladder.recorded import loss_response
from parity.ladder.tolerances import (
    ROUNDING,
    STRUCTURE_FORWARD,
    STRUCTURE_GRADIENT,
    Difference,
    K,
    Measurement,
    floor,
    input_disturbance,
    norm,
)
from parity.ladder.verdicts import judge
from parity.report.quantity import Kind, Quantity
from parity.spec.errors import listed
from parity.trace.reading import TraceFile

MOST_LIMIT = 0.1  # above it a derived limit passes outputs that are halved, or nearly zeros
SINGLE_VALUES = 64.0  # roundings by which equal values of two frameworks may differ


class ArrayPairs:
    """Compares arrays of two traces, and collects what was found.

    Attributes:
        one: The first trace.
        other: The second.
        name: What is compared, for people.
        precision: The precision of the arrays.
        limit: Of a relative difference; None: the derived ones.
        exact: The first's runs in float64, plain and disturbed, where they are known.
        found: What was measured.
        left_out: Lines on what is not judged.
        drowned: What is not judged since its limit is too wide.
    """

    one: TraceFile
    other: TraceFile
    name: str
    precision: str
    limit: float | None
    exact: list[dict[str, Any]]
    found: list[Found]
    left_out: list[str]
    drowned: list[Compared]

    def _judged(self) -> list[Compared]:
        """Return what was measured with its limits, but for what wrong networks would not fail.

        From 1 on a derived limit passes zeros, and well below it values that are halved. What is
        equal but for any arithmetic's rounding is judged by that, however wide its limit is.
        """
        exact = self.precision == FLOAT64
        least = STRUCTURE_FORWARD if exact else floor(self.precision)
        most = MOST_LIMIT if self.limit is None else 1.0
        checks = judge("compare", [found.measured for found in self.found], self.precision)
        made = [
            Compared(
                self.name,
                found.what,
                found.one,
                found.other,
                check.error,
                check.limit if self.limit is None else self.limit,
                check.note,
                found.measured.quantity.kind in (Kind.BATCH, Kind.VALUES),
                found.returned,
            )
            for check, found in zip(checks, self.found, strict=True)
        ]
        judged: list[Compared] = []
        self.drowned = []
        for c in made:
            if not c.ok or c.limit < most:
                judged.append(c)
            elif c.error <= least:
                judged.append(dataclasses.replace(c, limit=least))
            else:
                self.drowned.append(c)
        reason = f"a limit of {most:g} or more tells too little, so it is not judged"
        self.left_out += [f"{c}: {reason}" for c in self.drowned]
        return judged

    def _orders(self, mine: str, other: str) -> list[Order]:
        """Return the orders of axes in which two arrays are nearest to each other."""
        found = fitting(self.one.shape(mine), self.other.shape(other))
        if len(found) < 2:
            return found
        arrays = (self.one.array(mine), self.other.array(other))
        a, b = (array.astype(np.float64) for array in arrays)
        return near(a, b, found, self._rounding())

    def _rounding(self) -> float:
        """Return by how much equal values may differ."""
        exact = self.precision == FLOAT64
        return SAME if exact else SINGLE_VALUES * ROUNDING[self.precision]

    def _equal(self, mine: str, other: str) -> bool:
        """Return whether two arrays hold the same numbers, but for the order of axes."""
        shape = self.one.shape(mine)
        if sorted(shape) != sorted(self.other.shape(other)) or not math.prod(shape):
            return False
        limit = self._rounding()
        ours, theirs = fingerprint(self.one.array(mine)), fingerprint(self.other.array(other))
        if not same_print(ours, theirs, limit):
            return False
        found, scale, _ = self._distance(mine, other)
        return found.distance <= limit * scale

    def _unlike(self, quantity: Quantity, one: str, other: str, note: str) -> None:
        lost = Difference(math.inf, note=note)
        measured = Measurement(one, other, quantity, (quantity,), 0.0, 0, 0.0, lost)
        self.found.append(Found(measured, str(quantity), one, other))

    def _measure(
        self,
        quantity: Quantity,
        layer: str,
        other: str,
        a: str,
        b: str,
        what: str = "",
        one: str = "",
        orders: Sequence[Order] | None = None,
    ) -> None:
        found, scale, size = self._distance(a, b, orders)
        limit, noise = self._limit(quantity, one or layer, what, a)
        kind = self.one.index["layers"].get(layer.partition("#")[0], {}).get("kind", "")
        group = (kind, quantity, what)
        measured = Measurement(
            layer, other, quantity, group, limit, size, scale, found, drift=noise
        )
        self.found.append(Found(measured, what or str(quantity), one or layer, other))

    def _limit(self, quantity: Quantity, name: str, what: str, array: str) -> tuple[float, float]:
        """Return a quantity's own limit, and how far rounding moves it."""
        if self.precision == FLOAT64:
            return (STRUCTURE_GRADIENT if quantity.is_gradient else STRUCTURE_FORWARD), 0.0
        limit, noise = floor(self.precision), self._noise(quantity, name, what, array)
        if not self.exact:
            limit += K * input_disturbance(self.precision)
        if quantity.kind is Kind.LOSS and self.one.narrow and self.exact:
            noise = max(noise, loss_response(self.one))
        return limit, noise

    def _noise(self, quantity: Quantity, name: str, what: str, array: str) -> float:
        """Return how far rounding moves the first's quantity, from its runs in float64."""
        if len(self.exact) < 2:
            return 0.0
        plain, moved = (_lookup(run, quantity, name, what) for run in self.exact)
        if plain is None or moved is None:
            return 0.0
        oracle = self.one.array(plain).astype(np.float64)
        others = (self.one.array(n).astype(np.float64) for n in (array, moved))
        distances = [norm(o - oracle) for o in others if o.shape == oracle.shape]
        return sum(d for d in distances if math.isfinite(d))

    def _distance(
        self, mine: str, other: str, orders: Sequence[Order] | None = None
    ) -> tuple[Difference, float, int]:
        """Return the difference over the best order of axes, the first's norm, and its size.

        Args:
            mine: The first's array.
            other: The second's.
            orders: The orders that are allowed; any if not given.
        """
        shapes = self.one.shape(mine), self.other.shape(other)
        fit = fitting(*shapes)
        if not fit:
            note = f"shape {shapes[0]}, in the second {shapes[1]}"
            return Difference(math.inf, note=note), 0.0, 0
        a, b = self.one.array(mine), self.other.array(other)
        if is_float(a.dtype) != is_float(b.dtype):
            return Difference(math.inf, note=f"{a.dtype}, in the second {b.dtype}"), 0.0, a.size
        a, b = a.astype(np.float64), b.astype(np.float64)
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return Difference(math.inf, note="not finite"), 0.0, a.size
        scale = norm(a)
        allowed = [axes for axes in fit if orders is None or axes in orders]
        enough = STRUCTURE_FORWARD * scale
        found, best = closest(a, b, allowed, enough) if allowed else (fit[0], math.inf)
        note = f"axes {found}" if found != tuple(range(a.ndim)) else ""
        rest = [axes for axes in fit if axes not in allowed]
        if orders is not None and rest and not best <= enough:
            nearer, distance = closest(a, b, rest, enough)
            if distance < best / 2:
                note = f"nearer with axes {nearer}, expected {listed(orders)}"
        return Difference(best, note=note), scale, a.size


# Where a run or a step holds tensors by name.
PARTS = {
    Kind.STATISTIC: "statistics",
    Kind.PARAMETER_GRADIENT: "parameter_gradients",
    Kind.STATE: "state",
}


def _lookup(run: Mapping[str, Any], quantity: Quantity, name: str, what: str) -> str | None:
    """Return the array of a quantity in another run of the same trace."""
    if quantity.kind is Kind.LOSS:
        return run["loss"]
    if quantity.kind in PARTS:
        return run[PARTS[quantity.kind]].get(name)
    if quantity.kind is Kind.BATCH or what:
        return None
    found: list[str]
    if name != NETWORK:
        found = next((c["outputs"] for c in run["calls"] if c["layer"] == name), [])
    elif quantity.kind is Kind.OUTPUT:
        found = [o["array"] for o in run["outputs"] if o["array"] is not None]
    else:
        found = run["input_gradients"]
    return found[quantity.index] if quantity.index < len(found) else None


@dataclasses.dataclass(frozen=True)
class Found:
    """What was measured, and under which names it is shown."""

    measured: Measurement
    what: str
    one: str
    other: str

    @property
    def returned(self) -> bool:
        """Whether it is an output of the network, or its loss."""
        kind = self.measured.quantity.kind
        return kind is Kind.LOSS or (kind is Kind.OUTPUT and self.one == NETWORK)
