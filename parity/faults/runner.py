"""Runs mutants through the ladder, and records whether each was detected."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from parity.capture.records import ForwardError, leaves
from parity.diagnosis.catalogue import CATALOGUE
from parity.diagnosis.check import prove
from parity.faults.mutants import Mutant, copied
from parity.faults.rows import MutantRow
from parity.ladder import climb as ladder
from parity.ladder.port import Port
from parity.report.report import Report

FIRST = ("L0", "L1")
ALL = ("L0", "L1", "L2", "L3")
TRAINING = ("L4", "L5")  # of mutants whose networks are sound


def run(mutant: Mutant, explained: bool = True) -> MutantRow:
    """Climb the ladder with one mutant: the layers alone first, the rest if they are all right.

    Args:
        mutant: The mutant to detect.
        explained: Whether its cause is looked for, too, which takes most of the time.

    Returns:
        What was found, and what is proved.
    """
    start, port = time.perf_counter(), mutant.make()
    row = MutantRow(
        mutant.fault,
        CATALOGUE[mutant.fault].title,
        mutant.name,
        mutant.subject.model,
        mutant.place,
        mutant.level,
        mutant.equivalent,
    )
    try:
        report = _climb(mutant, port, explained)
    except ForwardError as error:  # loud, but neither found nor named: it counts as a survivor
        return dataclasses.replace(row, named=str(error), seconds=time.perf_counter() - start)
    fault, row = report.fault(), dataclasses.replace(row, seconds=time.perf_counter() - start)
    if fault is None:
        return row
    named = fault.layer.partition("#")[0]
    if fault.rung == "L0":
        named = named.rpartition(".")[0]
    found = dataclasses.replace(
        row,
        killed=True,
        rung=fault.rung,
        kind=fault.kind,
        named=named,
        right=named == mutant.place if mutant.place else None,
        margin=fault.error / fault.limit if fault.limit else math.inf,
    )
    return found.explained(report.causes)


def _climb(mutant: Mutant, port: Port, explained: bool) -> Report:
    """Run the rungs on which a mutant can be detected, until one detects it."""
    if mutant.level == "loss":
        return climb(port, ALL, explained)
    first, rest = ((TRAINING[0],), TRAINING[1:]) if mutant.level == "training" else (FIRST, ALL)
    report = climb(port, first, explained)
    return climb(port, rest, explained) if report.ok else report


def climb(port: Port, levels: Sequence[str], explained: bool = True) -> Report:
    """Compare the port; if it raises, return the report made until then.

    Args:
        port: The port to compare with its reference.
        levels: Which rungs; see `ladder.climb`.
        explained: Whether the cause of the first fault is looked for, too.

    Raises:
        ForwardError: The port raises, and no layer run alone explains why.
    """
    try:
        return (
            ladder.climb(port, levels, explain=prove) if explained else ladder.climb(port, levels)
        )
    except ForwardError as error:
        if error.report is None or not error.report.failures():
            raise
        return error.report


def predict(port: Port, images: np.ndarray) -> np.ndarray:
    """Return the first of the port's outputs in float32, in eval mode, of these images."""
    return outputs_of(port, images)[0]


def outputs_of(port: Port, *inputs: Any) -> list[np.ndarray]:
    """Return the port's outputs in float32, in eval mode.

    It is not compiled as a whole: that would take longer than it saves.
    """
    network = copied(port).port
    network.eval()
    return [np.asarray(o) for o in leaves(network(*inputs))]
