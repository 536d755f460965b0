"""A tensor that the reference ties, and the port holds several times."""

from __future__ import annotations

import numpy as np

from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments.engine import Proof, close
from parity.ladder.keys import full_name, key_of
from parity.ladder.runs import Runs
from parity.report.quantity import Kind, Quantity
from parity.report.report import Report

GRADIENT = Quantity(Kind.PARAMETER_GRADIENT)


def untied(runs: Runs, report: Report) -> list[Proof]:
    """Find a tensor that the reference ties and the port holds, and trains, several times.

    The gradients of the port's tensors are then shares of the reference's: their sum is the same.
    All gradients of parameters that differ must be such shares.
    """
    failed = {
        full_name(c.layer, c.quantity.path)
        for c in report.failures()
        if c.rung == "L3" and c.quantity.kind is Kind.PARAMETER_GRADIENT
    }
    ours = runs.flat(True)
    theirs = runs.port_flat(runs.port64, runs.inputs[True], True)
    found: list[Proof] = []
    for first, keys in runs.reference64.aliases().items():
        every = {first, *keys}
        names = [n for n, (key, _) in runs.assignment.map.items() if key in every]
        if len(names) < 2 or not failed & set(names):
            continue
        shares = [_in_reference(runs, n, theirs.get(key_of(n, GRADIENT))) for n in names]
        whole = [_in_reference(runs, n, ours.get(key_of(n, GRADIENT))) for n in names]
        given = [a for a in shares if a is not None]
        wanted = [a for a in whole if a is not None]
        if len(given) < 2 or len(wanted) != 1 or not close(np.sum(given, axis=0), wanted[0]):
            return []
        failed -= set(names)
        held = " and ".join(names)
        text = f"{first}, which is tied, held as {held}, which are trained apart"
        found.append(Proof(Fault.TIED_HEAD, text))
    return [] if failed else found


def _in_reference(runs: Runs, name: str, array: np.ndarray | None) -> np.ndarray | None:
    """Return one of the port's arrays with the reference's axes."""
    axes = runs.assignment.map[name][1]
    if array is None or axes is None:
        return array
    return array.transpose(np.argsort(axes))
