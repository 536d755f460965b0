"""Proving the cause of a report's first fault, by experiments on the reference.

Nothing is guessed: a cause is a change with which the reference gives the port's numbers, all that
were compared. Where no experiment succeeds, the reference's operations around are shown instead.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from parity.capture.records import NETWORK, Call
from parity.capture.torch_operations import CallValue, Operation, Tape
from parity.diagnosis.experiments import (
    engine,
    masks,
    of_loss,
    optimizers,
    precision,
    tied,
    training,
    weights,
)
from parity.diagnosis.experiments.engine import Proof, Proofs
from parity.diagnosis.experiments.layer import Alone, WholeNetwork
from parity.ladder.climb import Ladder
from parity.ladder.evidence import Evidence
from parity.ladder.runs import Runs
from parity.report.quantity import Kind, Mode, Scope
from parity.report.report import Check, Report

MOST_OPERATIONS = 300  # of a network that is tried whole, where a span of it explains nothing
MOST_SHOWN = 6  # operations, where no cause is proved


@dataclasses.dataclass(frozen=True)
class Findings:
    """What the experiments on one fault found.

    Attributes:
        proofs: The simplest first; empty where no experiment succeeded.
        operations: The reference's operations at the fault.
    """

    proofs: Sequence[Proof] = ()
    operations: Sequence[Operation] = ()

    def shown(self) -> list[str]:
        """Return the first and last operations as text."""
        lines = [str(operation) for operation in self.operations]
        if len(lines) <= MOST_SHOWN:
            return lines
        half = MOST_SHOWN // 2
        left = f"{len(lines) - 2 * half} more"
        return [*lines[:half], left, *lines[-half:]]


def explained(ladder: Ladder, report: Report) -> Findings:
    """Try experiments on a report's first fault.

    Args:
        ladder: Its runs can still be made.
        report: What was compared.
    """
    fault = report.fault()
    if fault is None or not _is_finite(fault):
        return Findings()
    if fault.rung == "L0":
        return Findings(_of_weights(ladder.runs, report))
    if fault.rung == "L1" and not _is_whole(fault):
        return _of_layer(ladder, report, fault)
    if fault.rung == "L3" and fault.quantity.kind is Kind.LOSS:
        return Findings(*of_loss.explained(ladder))
    if fault.rung in ("L2", "L3") or _is_whole(fault):
        return _of_network(ladder, report, fault)
    if fault.rung == "L4":
        return Findings(optimizers.of_update(ladder.update, report))
    return Findings(optimizers.of_trajectory(ladder.trajectory))


def _is_whole(fault: Check) -> bool:
    """Return whether a layer's output was compared in the network, since none can be run alone."""
    return fault.quantity.scope is Scope.ONLY_LAYER and fault.layer != NETWORK


def _is_finite(fault: Check) -> bool:
    """Return whether both values are numbers: of others no change of the reference is tried."""
    values = (fault.reference_value, fault.port_value)
    return all(v is None or math.isfinite(v) for v in values)


def of_evidence(evidence: Evidence) -> list[Proof]:
    """Return the proofs that evidence holds which was collected without a ladder."""
    return training.proofs(evidence)


def _of_weights(runs: Runs, report: Report) -> list[Proof]:
    """Return what explains all wrong tensors of the first layer that has any."""
    failed = [c for c in report.failures() if c.rung == "L0"]
    layer = failed[0].layer.rpartition(".")[0]
    source, target = runs.reference64.state(), runs.port64.state()
    found: list[list[Proof]] = []
    for check in failed:
        name, (key, axes) = check.layer, runs.assignment.map.get(check.layer, ("", None))
        if name.rpartition(".")[0] != layer:
            continue
        if key not in source or name not in target:
            return []
        found.append(weights.proofs(name, key, axes, source, target[name]))
    return [proof for proofs in found for proof in proofs] if all(found) else []


def _call_of(runs: Runs, fault: Check) -> Call | None:
    calls = runs.oracle(True).calls
    found = calls.get(fault.reference)
    return found if found is not None else runs.oracle(False).calls.get(fault.reference)


def _of_layer(ladder: Ladder, report: Report, fault: Check) -> Findings:
    runs = ladder.runs
    if fault.layer == NETWORK:
        whole = WholeNetwork(runs, ladder.layers, fault)
        return Findings(whole.proofs() or precision.in_float64(whole), whole.shown())
    call = _call_of(runs, fault)
    pair = runs.pair(call) if call is not None else None
    if call is None or pair is None:
        return Findings()
    alone = Alone(runs, ladder.layers, call, pair)
    if fault.kind == "numerics":
        return Findings(precision.in_working(alone, report), alone.shown())
    return Findings(
        alone.proofs() or masks.proofs(alone) or precision.in_float64(alone), alone.shown()
    )


def _of_network(ladder: Ladder, report: Report, fault: Check) -> Findings:
    """Where every layer is right alone: what happens between them, up to the first that is not."""
    runs = ladder.runs
    call = _call_of(runs, fault)
    compared = fault.rung == "L2" or _is_whole(fault)
    if compared and fault.quantity.kind is Kind.OUTPUT and fault.kind == "structure":
        train = fault.quantity.mode is Mode.TRAIN
        side = runs.port64
        ported = runs.run(side, train)
        failed = {c.layer for c in report.failures() if c.rung == fault.rung}
        known = [name for name, pair in _pairs(runs) if pair not in failed]
        index = fault.quantity.index
        if fault.layer == NETWORK:
            mine, other = runs.whole.outputs(train).pairs[index]
            place, target = CallValue("", False, mine.place), ported.outputs[other.place]
        elif call is not None and fault.layer in ported.calls:
            place, target = (
                CallValue(call.layer, False, index),
                ported.calls[fault.layer].outputs[index],
            )
        else:
            return Findings()
        tape = Tape(runs.reference64, runs.inputs[train], train, place, known)
        limit = engine.allowed(fault)
        proofs = engine.prove(tape, [target], runs.port.layout, limit)
        if not proofs and len(tape.every) <= MOST_OPERATIONS:
            # Such as a norm at another place: then layers do not stand where their partners do.
            tape_of_all = Tape(runs.reference64, runs.inputs[train], train, CallValue(fed=False))
            proofs = engine.prove(tape_of_all, [ported.outputs[0]], runs.port.layout, limit)
        elif proofs and fault.layer != NETWORK:
            proofs = _of_whole(runs, train, ported.outputs, tape, proofs, limit)
        right = [name for name, _ in _pairs(runs)]
        proofs = proofs or Proofs(precision.of_span(tape, target, fault.error, right))
        # Where the reference does nothing, what comes before is shown.
        return Findings(proofs, tape.operations or tape.every[-1:])
    if fault.quantity.kind is Kind.PARAMETER_GRADIENT and (found := tied.untied(runs, report)):
        return Findings(found)
    whole = WholeNetwork(runs, ladder.layers, fault)
    return Findings(whole.proofs(), ())


def _of_whole(
    runs: Runs,
    train: bool,
    outputs: Sequence[np.ndarray],
    tape: Tape,
    proofs: Proofs,
    limit: float,
) -> Proofs:
    """Prefer changes with which the whole network gives what the port does.

    A sum that is made behind a norm, not before it, looks like one that is not made at all to the
    norm's output. Where nothing explains the whole, there is more than one fault.
    """
    pairs = runs.whole.outputs(train).pairs
    if not pairs:
        return proofs
    mine, other = pairs[0]
    whole = Tape(runs.reference64, runs.inputs[train], train, CallValue("", False, mine.place))
    target = outputs[other.place]
    if found := engine.of_whole(proofs, whole, target, limit):
        return found
    if len(whole.every) > MOST_OPERATIONS:
        return proofs
    return engine.prove(whole, [target], runs.port.layout, limit, tape.operations) or proofs


def _pairs(runs: Runs) -> list[tuple[str, str]]:
    return [(name, pair.port) for name, pair in runs.alignment.pairs.items()]
