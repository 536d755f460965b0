"""Runs mutants up the ladder, and says what became of each."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from parity.capture.records import ForwardError, leaves
from parity.capture.torch_side import TorchSide
from parity.diagnosis import causes
from parity.diagnosis.catalogue import CATALOGUE, Fault
from parity.diagnosis.check import check
from parity.faults.mutants import Mutant, copied
from parity.faults.rows import MutantRow
from parity.ladder.port import Port
from parity.model_checks.small_networks import Subject
from parity.report.report import Report
from tests.benchmarks import other_tools_rules

FIRST = ("L0", "L1")
ALL = ("L0", "L1", "L2", "L3")
TRAINING = ("L4", "L5")  # of mutants whose networks are sound


def run(mutant: Mutant, others: bool = True) -> MutantRow:
    """Climb the ladder with one mutant: the layers alone first, the rest if they are all right.

    Args:
        mutant: Which.
        others: Ask other tools' rules too.
    """
    start, port = time.perf_counter(), mutant.make()
    others = others and mutant.level != "training"  # its network is the clean one
    row = MutantRow(
        mutant.fault,
        CATALOGUE[mutant.fault].title,
        mutant.name,
        mutant.subject.model,
        mutant.place,
        mutant.level,
        mutant.equivalent,
        equal=_equal(mutant, port) if others else {},
        sound=_sound(mutant.subject) if others else {},
    )
    try:
        report = _climb(mutant, port)
    except ForwardError as error:  # loud, but neither found nor named: it counts as a survivor
        return dataclasses.replace(row, named=str(error), seconds=time.perf_counter() - start)
    fault, row = report.fault(), dataclasses.replace(row, seconds=time.perf_counter() - start)
    if fault is None:
        return row
    named = fault.layer.partition("#")[0]
    if fault.rung == "L0":
        named = named.rpartition(".")[0]
    return dataclasses.replace(
        row,
        killed=True,
        rung=fault.rung,
        kind=fault.kind,
        named=named,
        right=named == mutant.place if mutant.place else None,
        margin=fault.error / fault.limit if fault.limit else math.inf,
        rank=_rank(mutant.fault, report),
    )


def _climb(mutant: Mutant, port: Port) -> Report:
    """The rungs on which a mutant can show, one after the other until it does."""
    if mutant.level == "loss":
        return climb(port, ALL)
    first, rest = ((TRAINING[0],), TRAINING[1:]) if mutant.level == "training" else (FIRST, ALL)
    report = climb(port, first)
    return climb(port, rest) if report.ok else report


def climb(port: Port, levels: Sequence[str]) -> Report:
    """As `check`; a port that raises is a report too.

    Raises:
        ForwardError: It raises, and no layer alone tells why.
    """
    try:
        return check(port, levels)
    except ForwardError as error:
        if error.report is None or error.report.ok:
            raise
        return error.report


def _rank(fault: Fault, report: Report) -> int | None:
    if report.evidence is None:
        return None
    found = [cause.fault for cause in causes.rank(report.evidence)]
    return found.index(fault) + 1 if fault in found else None


def _equal(mutant: Mutant, port: Port) -> dict[str, bool]:
    """What the other rules say; a port that raises is equal to none."""
    try:
        outputs = port_outputs(port)
    except Exception:  # of any kind: it is what the tool's user would see
        return dict.fromkeys(other_tools_rules.RULES, False)
    return other_tools_rules.verdicts(outputs, *reference_outputs(mutant.subject.port))


@functools.lru_cache(maxsize=16)
def _sound(subject: Subject) -> dict[str, bool]:
    """What the other rules say of a port without a fault."""
    return other_tools_rules.verdicts(port_outputs(subject.port), *reference_outputs(subject.port))


def port_outputs(port: Port) -> list[np.ndarray]:
    """The port's outputs in float32, in eval mode."""
    return outputs_of(port, *port.arguments(train=False))


def predict(port: Port, images: np.ndarray) -> np.ndarray:
    """The first of them, of these images."""
    return outputs_of(port, images)[0]


def outputs_of(port: Port, *inputs: Any) -> list[np.ndarray]:
    """Not compiled as a whole: that would take longer than it saves."""
    network = copied(port).port
    network.eval()
    return [np.asarray(o) for o in leaves(network(*inputs))]


def reference_outputs(port: Port) -> tuple[Any, Any]:
    """The reference's outputs in eval mode: in float32, in float64."""
    found = [
        TorchSide(port.reference, dtype, port.layout)
        .run(port.arguments(train=False), train=False)
        .outputs
        for dtype in ("float32", "float64")
    ]
    return found[0], found[1]
