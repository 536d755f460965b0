"""Comparing two traces with each other: same inputs, same layers, same numbers?"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from parity.capture.fingerprints import SAME, fingerprint, same_print
from parity.capture.records import NETWORK, is_float, leaves
from parity.capture.run import FLOAT64
from parity.ladder.comparison import Compared, Comparison, Rename
from parity.ladder.recorded import loss_response
from parity.ladder.tolerances import (
    DISTURBANCE,
    ROUNDING,
    STRUCTURE_FORWARD,
    STRUCTURE_GRADIENT,
    Difference,
    K,
    Measurement,
    floor,
    judge,
    norm,
)
from parity.ladder.weights import SYNONYMS
from parity.report.quantity import Kind, Quantity
from parity.spec.errors import InputError, listed
from parity.trace.reading import Stored, TraceFile

SINGLE_VALUES = 64.0  # roundings by which equal values of two frameworks may differ


def compare(
    one: TraceFile,
    other: TraceFile,
    rename: Sequence[Rename] = (),
    limit: float | None = None,
) -> Comparison:
    """Compare all runs that both traces hold, and that are not disturbed.

    Args:
        one: The first, which is taken for the reference.
        other: The second.
        rename: Applied to the first's names, one after the other.
        limit: Of a relative difference, instead of the derived ones.

    Raises:
        InputError: They have no run in common.
    """
    runs = [key for key in one.runs if key in other.runs and key[2] is None]
    if one.narrow or other.narrow:  # a run is listed as float64, too
        runs = [key for key in runs if key[1] != FLOAT64]
    if not runs:
        raise InputError(f"{one.path} and {other.path} hold no run of one mode and precision")
    found = Comparison([], [])
    for key in runs:
        pair = RunPair(one, other, key, rename, limit)
        found.compared += pair.compared()
        found.left_out += pair.left_out
    return found


class RunPair:
    """One run of either trace.

    Attributes:
        left_out: Lines on what has no counterpart.
        number: Of a step of training, from 1.
    """

    number = 0

    def __init__(
        self,
        one: TraceFile,
        other: TraceFile,
        key: tuple[str, str, int | None],
        rename: Sequence[Rename],
        limit: float | None,
    ) -> None:
        self.one, self.other, self.rename, self.limit = one, other, rename, limit
        self.mode, self.precision, _ = key
        self.runs = one.runs[key], other.runs[key]
        self.name = f"{self.mode} {self.precision}"
        self.left_out: list[str] = []
        self.found: list[Found] = []
        exact = [one.runs.get((self.mode, FLOAT64, i)) for i in (None, 0)]
        known = None not in exact and self.precision != FLOAT64
        self.exact = [run for run in exact if run is not None] if known else []

    def compared(self) -> list[Compared]:
        """Compare everything: inputs, layers in their order, outputs, loss, gradients."""
        self._inputs()
        for mine, other in self._calls():
            self._call(mine, other)
        self._outputs()
        if all(run["loss"] for run in self.runs):
            self._measure(
                Quantity(Kind.LOSS), NETWORK, NETWORK, *(run["loss"] for run in self.runs)
            )
        self._named("statistics", Kind.STATISTIC)
        self._named("parameter_gradients", Kind.PARAMETER_GRADIENT)
        gradients = [run["input_gradients"] for run in self.runs]
        if len(gradients[0]) == len(gradients[1]):
            for i, (a, b) in enumerate(zip(*gradients, strict=True)):
                if a is not None and b is not None:
                    what = Quantity(Kind.INPUT_GRADIENT, index=i)
                    self._measure(what, NETWORK, NETWORK, a, b)
        return self._judged()

    def _judged(self) -> list[Compared]:
        checks = judge("compare", [found.measured for found in self.found], self.precision)
        return [
            Compared(
                self.name,
                found.what,
                found.one,
                found.other,
                check.error,
                check.limit if self.limit is None else self.limit,
                check.note,
            )
            for check, found in zip(checks, self.found, strict=True)
        ]

    def _inputs(self) -> None:
        names = [
            [leaf.name for leaf in leaves(tuple(nest)) if isinstance(leaf, Stored)]
            for trace, run in ((self.one, self.runs[0]), (self.other, self.runs[1]))
            for nest in [[trace.tree(run[key], Stored) for key in ("args", "kwargs")]]
        ]
        if len(names[0]) != len(names[1]):
            self.left_out.append(f"{self.name}: {len(names[0])} and {len(names[1])} inputs")
        for i, (a, b) in enumerate(zip(*names, strict=False)):
            quantity = Quantity(Kind.BATCH, path=f"input {i}")
            self._measure(quantity, NETWORK, NETWORK, a, b, f"input {i}")

    def _outputs(self) -> None:
        """Compare the network's outputs: by name where both have the same, else by place."""
        mine, theirs = ([o for o in r["outputs"] if o["array"] is not None] for r in self.runs)
        names = [[o["name"] for o in each] for each in (mine, theirs)]
        if sorted(names[0]) == sorted(names[1]):
            theirs = [theirs[names[1].index(name)] for name in names[0]]
        for i, (a, b) in enumerate(itertools.zip_longest(mine, theirs)):
            quantity = Quantity(Kind.OUTPUT, index=i)
            if a is None or b is None:
                only = f"only the {'first' if b is None else 'second'} returns it"
                self._unlike(quantity, NETWORK, NETWORK, only)
            else:
                self._measure(quantity, NETWORK, NETWORK, a["array"], b["array"])

    def _named(self, kind: str, what: Kind) -> None:
        """Compare tensors by name, the others by value."""
        mine, rest = self.runs[0][kind], dict(self.runs[1][kind])
        pairs = {name: other for name in mine if (other := self._named_alike(name, rest))}
        for other in pairs.values():
            rest.pop(other, None)
        for name in [n for n in mine if n not in pairs]:
            found = next((n for n, b in rest.items() if self._equal(mine[name], b)), None)
            if found is not None:
                pairs[name] = found
                rest.pop(found)
        for name, array in mine.items():
            layer, _, leaf = name.rpartition(".")
            if name in pairs:
                quantity = Quantity(what, path=leaf, step=self.number)
                other = self.runs[1][kind][pairs[name]]
                self._measure(quantity, layer or NETWORK, pairs[name], array, other, one=name)
            else:
                self.left_out.append(f"{self.name}, {name}, {what}: only the first has it")
        self.left_out += [f"{self.name}, {name}, {what}: only the second has it" for name in rest]

    def _named_alike(self, name: str, others: Mapping[str, Any]) -> str:
        """Return the second's name of a tensor, of a layer of the same name; empty if none."""
        layer, dot, leaf = self._renamed(name).rpartition(".")
        alike = next((names for names in SYNONYMS.values() if leaf in names), ())
        found = [f"{layer}{dot}{last}" for last in (leaf, *sorted(alike))]
        return next((other for other in found if other in others), "")

    def _renamed(self, name: str) -> str:
        for pattern, replacement in self.rename:
            name = pattern.sub(replacement, name)
        return name

    def _calls(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Yield pairs of calls, in the first's order: by name, else by value."""
        mine, rest = self.runs[0]["calls"], {c["layer"]: c for c in self.runs[1]["calls"]}
        pairs = {}
        for call in mine:
            layer, sign, count = call["layer"].partition("#")
            name = f"{self._renamed(layer)}{sign}{count}"
            if name in rest:
                pairs[call["layer"]] = rest.pop(name)
        for call in mine:
            if call["layer"] in pairs:
                continue
            found = next((n for n, c in rest.items() if self._equal_calls(call, c)), None)
            if found is not None:
                pairs[call["layer"]] = rest.pop(found)
        alone = [c["layer"] for c in mine if c["layer"] not in pairs]
        for side, names in (("first", alone), ("second", list(rest))):
            if names:
                count = f"{len(names)} layer{'s' * (len(names) > 1)}"
                self.left_out.append(f"{self.name}, {count} only in the {side}: {listed(names)}")
        for call in mine:
            if call["layer"] in pairs:
                yield call, pairs[call["layer"]]

    def _equal_calls(self, mine: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        a, b = mine["outputs"], other["outputs"]
        return bool(a) and len(a) == len(b) and all(map(self._equal, a, b))

    def _equal(self, mine: str, other: str) -> bool:
        """Return whether two arrays hold the same numbers, but for the order of axes."""
        if sorted(self.one.shape(mine)) != sorted(self.other.shape(other)):
            return False
        exact = self.precision == FLOAT64
        limit = SAME if exact else SINGLE_VALUES * ROUNDING[self.precision]
        ours, theirs = fingerprint(self.one.array(mine)), fingerprint(self.other.array(other))
        if not same_print(ours, theirs, limit):
            return False
        found, scale, _ = self._distance(mine, other)
        return found.distance <= limit * scale

    def _call(self, mine: Mapping[str, Any], other: Mapping[str, Any]) -> None:
        names = mine["layer"], other["layer"]
        if len(mine["outputs"]) != len(other["outputs"]):
            note = f"{len(mine['outputs'])} outputs, in the second {len(other['outputs'])}"
            self._unlike(Quantity(Kind.OUTPUT), *names, note)
            return
        for i, (a, b) in enumerate(zip(mine["outputs"], other["outputs"], strict=True)):
            self._measure(Quantity(Kind.OUTPUT, index=i), *names, a, b)
        for i, (a, b) in enumerate(zip(mine["cotangents"], other["cotangents"], strict=False)):
            if a is not None and b is not None:
                what = f"gradient of output {i}"
                self._measure(Quantity(Kind.INPUT_GRADIENT, index=i), *names, a, b, what)

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
    ) -> None:
        found, scale, size = self._distance(a, b)
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
            limit += K * DISTURBANCE * ROUNDING[self.precision]
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

    def _distance(self, mine: str, other: str) -> tuple[Difference, float, int]:
        """Return the difference over the best order of axes, the first's norm, and its size."""
        shapes = self.one.shape(mine), self.other.shape(other)
        if sorted(shapes[0]) != sorted(shapes[1]):
            note = f"shape {shapes[0]}, in the second {shapes[1]}"
            return Difference(math.inf, note=note), 0.0, 0
        a, b = self.one.array(mine), self.other.array(other)
        if is_float(a.dtype) != is_float(b.dtype):
            return Difference(math.inf, note=f"{a.dtype}, in the second {b.dtype}"), 0.0, a.size
        a, b = a.astype(np.float64), b.astype(np.float64)
        if not a.size or not (np.isfinite(a).all() and np.isfinite(b).all()):
            note = "not finite" if a.size else "no elements"
            return Difference(math.inf, note=note), 0.0, a.size
        found = asis = tuple(range(a.ndim))
        best, scale = math.inf, norm(a)
        for axes in itertools.permutations(range(a.ndim)):
            moved = a.transpose(axes)
            if moved.shape != b.shape:
                continue
            distance = norm(moved - b)
            if distance < best:
                best, found = distance, axes
            if distance <= STRUCTURE_FORWARD * scale:
                break
        note = f"axes {found}" if found != asis else ""
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
