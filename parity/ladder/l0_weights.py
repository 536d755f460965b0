"""L0: the weights."""

from __future__ import annotations

import math

import numpy as np

from parity.capture.records import NETWORK, transposed
from parity.ladder.constants import CONSTANT, constant_error
from parity.ladder.recorded import stateless
from parity.ladder.rung import Absence, Lacking, Rung
from parity.ladder.weights import COUNTER
from parity.report.quantity import Kind, Quantity
from parity.report.report import Check
from parity.spec.errors import listed

MADE = "(made by the function)"


class Weights(Rung):
    """Rung L0: every source tensor used once, every target filled once, bit for bit."""

    def absent(self) -> Absence | None:
        return Absence.first({Lacking.TRACE: stateless(self.runs)})

    def climb(self) -> list[Check]:
        """Check that every source tensor is used once and every target filled once, bit for bit."""
        runs, assignment = self.runs, self.runs.assignment
        source, target = runs.reference64.state(), runs.port64.state()
        fixed = runs.reference64.unsaved()
        if not source and not target:
            return [_exact(NETWORK, NETWORK, "")]
        taken: dict[str, str] = {}
        checks = []
        for name in sorted((target.keys() | assignment.map.keys()) - assignment.own):
            if name in assignment.derived:
                part = assignment.parts.get(name)
                given = (assignment.arrays or {}).get(name)
                expected = part.gathered(source, {}) if part is not None else given
                made_of = listed(part.keys, " + ") if part is not None else MADE
                checks.append(_exact(name, made_of, _unlike(target.get(name), expected)))
                continue
            key, axes = assignment.map.get(name, ("(none)", None))
            if name in assignment.constants:
                given = assignment.constants[name]
                checks.append(_constant(name, key, given, transposed(fixed[key], axes)))
                continue
            expected = transposed(source[key], axes) if key in source else None
            note = _unlike(target.get(name), expected)
            if key in taken:
                note = f"{key} fills {taken[key]} already"
            taken[key] = name
            checks.append(_exact(name, key, note))
        spare = () if runs.strict else {k for k in source if k.rpartition(".")[2] == COUNTER}
        taken |= {key: name for name, part in assignment.parts.items() for key in part.keys}
        unused = sorted(source.keys() - taken.keys() - assignment.idle - set(spare))
        return checks + [_exact(key, key, "no tensor of the port uses it") for key in unused]


def _unlike(port: np.ndarray | None, reference: np.ndarray | None) -> str:
    """Why two arrays are not the same, bit for bit; empty if they are."""
    if port is None or reference is None:
        return f"missing in the {'port' if port is None else 'reference'}"
    if port.shape != reference.shape:
        return f"shape {port.shape}, reference {reference.shape}"
    if port.dtype.kind != reference.dtype.kind:  # counters: JAX's are narrower
        return f"dtype {port.dtype}, reference {reference.dtype}"
    same = np.array_equal(port, reference)
    return "" if same else f"{int((port != reference).sum())} of {port.size} values differ"


def _constant(name: str, key: str, port: np.ndarray, reference: np.ndarray) -> Check:
    """Compare a constant that both sides make themselves, perhaps in float32."""
    quantity = Quantity(Kind.VALUES, detail="constant")
    note = _unlike(port, reference) if port.shape != reference.shape else ""
    error = math.inf if note else constant_error(port, reference)
    return Check("L0", "structure", name, key, quantity, error, CONSTANT, note=note)


def _exact(name: str, key: str, note: str) -> Check:
    error = math.inf if note else 0.0
    return Check("L0", "structure", name, key, Quantity(Kind.VALUES), error, 0.0, note=note)
