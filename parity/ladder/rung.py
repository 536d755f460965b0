"""The base class of rungs: measuring and judging a quantity of a layer."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Hashable, Mapping

import numpy as np

from parity.capture.records import NETWORK
from parity.capture.run import Run, Side
from parity.ladder import tolerances, verdicts
from parity.ladder.keys import Key
from parity.ladder.recorded import is_recorded, lacking_steps, loss_response
from parity.ladder.runs import DISTURBED, PORT64, Runs
from parity.ladder.tolerances import (
    STRUCTURE_FORWARD,
    STRUCTURE_GRADIENT,
    Difference,
    Measurement,
    difference,
)
from parity.ladder.weights import SYNONYMS
from parity.report.quantity import Kind, Quantity
from parity.report.report import Check
from parity.trace.reading import TraceFile

INFERENCE = "it is an inference check"  # why a rung is absent


class Lacking(enum.Enum):
    """Who lacks what a rung compares."""

    PORT = enum.auto()  # it gives no optimizers, or is for inference
    BOUNDS = enum.auto()  # the user left it out
    TRACE = enum.auto()  # it was not recorded


@dataclasses.dataclass(frozen=True)
class Absence:
    """Why a rung is left out.

    Attributes:
        by: Who lacks what it compares.
        reason: What is lacking, in words.
    """

    by: Lacking
    reason: str

    @classmethod
    def first(cls, reasons: Mapping[Lacking, str]) -> Absence | None:
        """Return the first reason that is not empty; None if all are."""
        return next((cls(by, reason) for by, reason in reasons.items() if reason), None)


class Rung:
    """One rung of the ladder.

    Args:
        runs: Both sides; whole networks are run once and serve every rung.
        notes: Collects lines on what could not be compared.
    """

    def __init__(self, runs: Runs, notes: list[str]) -> None:
        self.runs = runs
        self.notes = notes

    def climb(self) -> list[Check]:
        """Compare everything that belongs to the rung."""
        raise NotImplementedError

    def absent(self) -> Absence | None:
        """Return why the rung is left out; None if it is not."""
        return None

    def _without_steps(self, rung: str, kind: str) -> Absence | None:
        """Return why a rung cannot compare optimizer steps of a kind; None if it can."""
        return Absence.first(
            {
                Lacking.PORT: self._untrained(),
                Lacking.BOUNDS: self.runs.bounded.empty(rung),
                Lacking.TRACE: lacking_steps(self.runs, kind),
            }
        )

    def _untrained(self) -> str:
        """Return why nothing is trained; empty if something is."""
        if not self.runs.port.train:
            return INFERENCE
        return "" if self.runs.port.optimizers else "no optimizers were given"

    def _judge(self, rung: str, found: list[Measurement]) -> list[Check]:
        return verdicts.judge(rung, found, self.runs.precision)

    def _measure_network(
        self, train: bool, wanted: Callable[[Quantity], bool]
    ) -> list[Measurement]:
        """Measure runs of the whole network: those quantities that are wanted."""
        differences = self.runs.differences(train)
        oracle = self.runs.flat(train)
        drift = self.runs.drift(train)
        measured = []
        for key in differences[PORT64]:
            if wanted(key.quantity):
                each = {run: found[key] for run, found in differences.items() if key in found}
                if key in oracle and not self._rounding_known(each):
                    each = {PORT64: each[PORT64]}
                target = oracle.get(key)
                if target is None and each[PORT64].distance == 0:
                    target = np.zeros(1)  # a gradient the reference lacks, zero in the port
                m = self._measure_one(key, target, each)
                measured.append(dataclasses.replace(m, drift=drift.get(key, 0.0)))
        return measured

    def _rounding_known(self, each: Mapping[Run, Difference]) -> bool:
        """Return whether the reference's rounding and disturbed runs hold a quantity.

        A trace may lack it. Where no other run at all was made, nothing is to be left out.
        """
        if self.runs.coarse or not is_recorded(self.runs.port):
            return True
        working = Run(Side.REFERENCE, self.runs.precision)
        return working in each and any(run in each for run in DISTURBED)

    def _loss_at_fault(self) -> bool:
        """Return whether the loss differs although both sides' outputs agree."""
        found = self._measure_network(True, lambda q: q.kind in (Kind.LOSS, Kind.OUTPUT))
        judged = self._judge("L3", [m for m in found if m.layer == NETWORK])
        checks = [c for c in judged if c.has_limit]
        wrong = [c for c in checks if not c.ok and c.quantity.kind is Kind.LOSS]
        return bool(wrong) and all(
            c.ok for c in checks if c.quantity.kind is not Kind.LOSS and c.kind == wrong[0].kind
        )

    def _measure_one(
        self,
        key: Key,
        oracle: np.ndarray | None,
        differences: Mapping[Run, Difference],
        reference: str = "",
        limit: float = 0.0,
        shared_group: Hashable = None,
    ) -> Measurement:
        """Measure one quantity.

        Args:
            key: The layer and quantity.
            oracle: The expected array.
            differences: Run -> its difference from the oracle.
            reference: The reference's name of the layer, where it is known.
            limit: The limit in float64; by default that of a gradient or of a forward pass.
            shared_group: As for `Measurement`.
        """
        pair = self.runs.by_port.get(key.layer)
        reference = reference or (pair.reference if pair else self._reference_of(key.layer))
        kind = ""
        if key.layer != NETWORK and pair is not None:
            kind = self.runs.reference64.kind(pair.reference.partition("#")[0])
        measured = Measurement(
            layer=key.layer,
            reference=reference,
            quantity=key.quantity,
            group=(kind, key.quantity),
            limit=limit or (STRUCTURE_GRADIENT if key.quantity.is_gradient else STRUCTURE_FORWARD),
            elements=0 if oracle is None else oracle.size,
            norm=0.0 if oracle is None else tolerances.norm(oracle),
            structure=differences.get(PORT64, difference(None, oracle)),
            terms=self._terms(key, reference) if oracle is not None else 0.0,
            shared_group=shared_group,
            narrow=self.runs.is_narrow(key),
        )
        rounded, port = (Run(side, self.runs.precision) for side in Side)
        if port not in differences or oracle is None or oracle.dtype.kind != "f":
            return measured
        # A gradient that the reference lacks is in none of its runs.
        rounding = differences[rounded].distance if rounded in differences else 0.0
        moved = [differences[run].distance for run in DISTURBED if run in differences]
        trace = self.runs.port.reference
        if key.quantity.kind is Kind.LOSS and isinstance(trace, TraceFile) and trace.narrow:
            moved.append(loss_response(trace))
        return measured.with_numerics(differences[port], rounding, max(moved, default=0.0))

    def _terms(self, key: Key, reference: str) -> float:
        """Return the norm of the terms summed for a bias's gradient, i.e. of the output's gradient.

        Before a batch norm in train mode the sum is zero but for rounding.
        """
        quantity = key.quantity
        if quantity.kind is not Kind.PARAMETER_GRADIENT or quantity.path not in SYNONYMS["bias"]:
            return 0.0
        module = reference.partition("#")[0]
        calls = self.runs.oracle(True).calls.values()
        return sum(
            tolerances.norm(abs(np.asarray(c)).sum(axis=tuple(range(c.ndim - 1))))
            for call in calls
            if call.module == module
            for c in call.cotangents
            if c is not None
        )

    def _reference_of(self, layer: str) -> str:
        """Return the reference's name of a layer that was not recorded, by a tensor in it."""
        for name, (key, _) in self.runs.assignment.map.items():
            if name.rpartition(".")[0] == layer:
                return key.rpartition(".")[0]
        return layer
