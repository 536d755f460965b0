"""The first operation at which the two networks part, with its line in both sources.

In float64 two values that are the same are the same numbers, in whatever order and shape. So the
reference's operations are gone through in order, and the first whose result the port never has,
although it has what the operation takes, is where they part.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from parity.capture import jax_operations
from parity.capture.equations import equations
from parity.capture.fingerprints import SAME, same_print
from parity.capture.records import NETWORK
from parity.capture.source_lines import line_of
from parity.capture.torch_calls import Operation, Origin
from parity.capture.torch_operations import CallValue, Tape
from parity.diagnosis.experiments.engine import DISTINCT
from parity.ladder.runs import Runs
from parity.report.quantity import Kind, Mode
from parity.report.report import Check, Parting
from parity.report.source import NO_LINE, SourceLine

NARROW = 1e-6  # relative difference of values made of constants known in float32 alone
# They give what they take, in another shape or type; where a value is not theirs, it was before.
MOVES = {
    "contiguous",
    "clone",
    "expand",
    "flatten",
    "permute",
    "reshape",
    "to",
    "transpose",
    "view",
}


def parting(runs: Runs, fault: Check) -> Parting | None:
    """Find the first operation at which a port parts from its reference in the forward pass.

    Args:
        runs: Both sides.
        fault: The first fault.

    Returns:
        None where the forward pass is right, or no such operation is found.
    """
    if fault.quantity.kind is not Kind.OUTPUT or fault.kind != "structure" or fault.note:
        return None
    train = fault.quantity.mode is not Mode.EVAL
    call = "" if fault.layer == NETWORK else fault.reference
    if call and call not in runs.oracle(train).calls:
        return None
    place = CallValue(call, False, fault.quantity.index)
    tape = Tape(runs.reference64, runs.inputs[train], train, place, prints=True)
    ported = jax_operations.recorded(runs.port64, runs.inputs[train], train)
    return _first(tape, ported, _near(runs, fault))


def _near(runs: Runs, fault: Check) -> float:
    """Return the relative difference of equal values: more where constants are rounded."""
    if not (runs.drift.constants or runs.port64.rounded):
        return SAME
    return max(SAME, min(NARROW, fault.error / DISTINCT))


def port_line(runs: Runs, fault: Check) -> SourceLine:
    """Find the line of the port's source at which the layer at fault begins.

    Args:
        runs: Both sides.
        fault: The first fault.

    Returns:
        The line of the layer's first operation; of a layer of Flax that is where it is called. Of
        a tensor, that of the layer which holds it. A false one if that never runs, or no line is
        known.
    """
    train = runs.mode(True)
    program = runs.port64.jaxpr(runs.inputs[train], train)
    lines: dict[str, SourceLine] = {}
    for eqn, layer in equations(program.jaxpr, opaque=False):
        if layer not in lines and (line := line_of(eqn)):
            lines[layer] = line
    inside = [layer for layer in lines if f"{layer}.".startswith(f"{fault.layer}.")]
    around = [layer for layer in lines if layer and fault.layer.startswith(f"{layer}.")]
    found = next(iter(inside), None) or max(around, key=len, default="")
    return lines[found] if found else NO_LINE


class Prints:
    """Fingerprints of one side's values, by the number of elements.

    Args:
        prints: The fingerprints.
        near: The relative difference of those of equal values.
    """

    def __init__(self, prints: Sequence[np.ndarray], near: float = SAME) -> None:
        self.near = near
        self.by_size: dict[float, list[tuple[int, np.ndarray]]] = {}
        for i, one in enumerate(prints):
            self.by_size.setdefault(float(one[0]), []).append((i, one))

    def places(self, wanted: np.ndarray) -> Iterator[int]:
        """Yield the places of values that are equal to one."""
        for i, one in self.by_size.get(float(wanted[0]), ()):
            if same_print(one, wanted, self.near):
                yield i


def _first(tape: Tape, ported: jax_operations.Operations, near: float) -> Parting | None:
    theirs = Prints([np.asarray(one) for one in ported.prints], near)
    has = {
        o.index: _has(theirs, made)
        for o in tape.operations
        if (made := tape.prints.get(o.index, []))
    }
    varying = _varying(tape.operations, tape.side.parameters())
    met = _met(tape.operations, has)
    for operation in tape.operations:
        if has.get(operation.index, True) or operation.name in MOVES:
            continue
        if operation.index in met or operation.index not in varying:
            continue
        fed = tape.fed_prints.get(operation.index, [])
        taken = {place for one in fed for place in theirs.places(one)}
        theirs_first = _port(ported, taken, tape, near)
        if theirs_first is None:
            return Parting(str(operation), reference_line=operation.line)
        return Parting(str(operation), str(theirs_first), operation.line, theirs_first.line)
    return None


def _varying(operations: Sequence[Operation], parameters: Collection[str]) -> set[int]:
    """Return operations that depend on inputs or weights; tables may be made in another way."""
    found: set[int] = set()
    for operation in operations:
        for value in operation.values():
            given = value.origin in (Origin.INPUT, Origin.LAYER) or (
                value.origin is Origin.STORED and value.source in parameters
            )
            if value.operation in found or (value.operation is None and given):
                found.add(operation.index)
    return found


def _met(operations: Sequence[Operation], has: Mapping[int, bool]) -> set[int]:
    """Return operations behind which both sides have the same again."""
    found: set[int] = set()
    for operation in reversed(operations):
        if has.get(operation.index) or operation.index in found:
            found |= {v.operation for v in operation.values() if v.operation is not None}
    return found


def _has(prints: Prints, made: Sequence[np.ndarray]) -> bool:
    return all(next(prints.places(one), None) is not None for one in made)


def _port(
    ported: jax_operations.Operations, taken: set[int], tape: Tape, near: float
) -> jax_operations.Operation | None:
    """Return the port's first operation on these values whose result the reference never has."""
    known = Prints([one for made in tape.prints.values() for one in made], near)
    taken = set(taken)
    for operation in ported.operations:
        if not taken & set(operation.operands):
            continue
        if operation.moves:
            taken |= set(operation.results)
            continue
        made = [np.asarray(ported.prints[i]) for i in operation.results]
        if not _has(known, made):
            return operation
    return None
