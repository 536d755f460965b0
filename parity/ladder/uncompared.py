"""Tensors and layers that no check of a rung compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from parity.capture.records import NETWORK
from parity.ladder.holders import outward
from parity.ladder.keys import Key, key_of
from parity.ladder.lacking import lacking
from parity.ladder.runs import Runs
from parity.ladder.weights import COUNTER
from parity.report.quantity import Kind, Mode, Quantity, Scope
from parity.report.report import Check, Omission
from parity.trace.side import RecordedSide

UNPAIRED = "no layer of the other side answers it"
MADE = "the weights function makes it of several, or changes it on the way"
REPEATED = "the weights function uses elements of it more than once"
UNTRAINED = "the reference does not train it"
UNUSED = "nothing of the port answers it"
OWN = "it is the port's own"
TRAINED = "it is the port's own, yet the port would train it"
UNREACHED = (
    "none was seen to reach its output, as in a checkpoint of PyTorch's that is reentrant; L3"
    " compares the network's"
)
UNRECORDED = "the trace holds no gradient of its output; L3 compares the network's"
OUTPUT = Quantity(Kind.OUTPUT)  # all of a layer's
ALONE = Quantity(Kind.PARAMETER_GRADIENT, scope=Scope.LAYER)  # all of a layer's
FUNCTION = "the port is a function, which gives no statistics back"
FORGETS = "the port is a function, which keeps no statistics from step to step"


def left_out(runs: Runs, rung: str, checks: Iterable[Check]) -> list[Omission]:
    """Return what a rung did not compare.

    Args:
        runs: Both sides.
        rung: A key of `RUNGS`.
        checks: The rung's checks.

    Returns:
        One omission for each quantity. Parameters are required: a network whose parameters are not
        all compared has not been shown to be the reference.
    """
    compared = {Key(c.layer, c.quantity) for c in checks}
    found = RULES[rung](runs, rung, compared)
    return [*found, *lacking(runs, rung), *runs.bounded.omissions(rung)]


def _values(runs: Runs, rung: str, _: set[Key]) -> Iterator[Omission]:
    """Yield tensors of the reference that the port does not use, because the rules say so."""
    for name in sorted(runs.assignment.own):
        yield Omission(rung, name, "(none)", Quantity(Kind.VALUES), OWN)
    held = {key for key, _ in runs.assignment.map.values()} | runs.assignment.tied
    held |= {key for part in runs.assignment.parts.values() for key in part.keys}
    if runs.tensors.opaque or runs.strict:
        return  # who knows what they are made of; L0 looks itself
    for key in runs.reference64.state():
        if key not in held and key.rpartition(".")[2] != COUNTER:
            yield Omission(rung, key, key, Quantity(Kind.VALUES), UNUSED)


def _layers(runs: Runs, rung: str, compared: set[Key]) -> Iterator[Omission]:
    """Yield innermost layers that are unpaired, and those that could not be run alone."""
    for name in runs.alignment.reference:
        yield Omission(rung, name, name, OUTPUT, UNPAIRED)
    for name in runs.alignment.port:
        yield Omission(rung, name, "(none)", OUTPUT, UNPAIRED)
    known = {*runs.alignment.pairs, *runs.alignment.reference, *runs.bounded.left}
    for name, call in runs.oracle(True).calls.items():
        asked = name not in known and runs.bounded.compares(name)
        if asked and runs.leaf(call):  # it is called in train mode only
            yield Omission(rung, name, name, OUTPUT, UNPAIRED)
    if rung != "L1":
        return
    seen = {layer for layer, _ in compared}
    # Another call that has gradients explains them: the output of this one may lead nowhere.
    calls = runs.oracle(True).calls.values()
    moved = _with_gradients(runs) - {
        call.module for call in calls if any(c is not None for c in call.cotangents or ())
    }
    for name, pair in runs.alignment.pairs.items():
        called = runs.oracle(True).calls.get(name)
        if called is None or not runs.leaf(called):
            continue
        if not {pair.port, name} & seen:
            yield Omission(rung, pair.port, name, OUTPUT, _not_alone(runs, name))
        elif called.module in moved:
            recorded = isinstance(runs.reference64, RecordedSide)
            yield Omission(rung, pair.port, name, ALONE, UNRECORDED if recorded else UNREACHED)


def _with_gradients(runs: Runs) -> set[str]:
    """Return the reference's modules in which a parameter's gradient is not zero."""
    if not runs.port.train:
        return set()
    names = runs.reference64.aliases()
    found = runs.oracle(True).parameter_gradients.items()
    keys = (key for name, gradient in found if gradient.any() for key in names.get(name, (name,)))
    return {module for key in keys for module in outward(key)[1:]}


def _not_alone(runs: Runs, name: str) -> str:
    side = runs.reference64
    if isinstance(side, RecordedSide) and not side.has_layer(name, runs.port.train):
        return "the trace holds neither a run of it alone nor what it was fed"
    return "it cannot be fed alone"


def _whole(runs: Runs, rung: str, compared: set[Key]) -> Iterator[Omission]:
    """Yield unpaired layers, and statistics that were not compared."""
    yield from _layers(runs, rung, compared)
    yield from _outputs(runs, rung)
    yield from _statistics(runs, rung, compared, Quantity(Kind.STATISTIC, mode=Mode.TRAIN))


def _outputs(runs: Runs, rung: str) -> Iterator[Omission]:
    """Yield outputs of the whole network that only one side returns."""
    seen = set()
    for train in runs.modes:
        found = runs.whole.outputs(train)
        sides = (
            *((name, "(none)", name, "the port") for name in found.reference),
            *((name, name, "(none)", "the reference") for name in found.port),
        )
        for name, port, reference, other in sides:
            if (name, other) not in seen:
                seen.add((name, other))
                quantity = Quantity(Kind.OUTPUT, path=name)
                yield Omission(rung, port, reference, quantity, f"{other} does not return it")


def _statistics(
    runs: Runs, rung: str, compared: set[Key], quantity: Quantity
) -> Iterator[Omission]:
    """Yield statistics that were not compared; the port's that a function made are required."""
    parameters = runs.port64.parameters()
    if runs.stateless:
        before = runs.reference64.state()
        given = runs.whole.statistics(True)
        answered = {
            k for n in given if key_of(n, quantity) in compared for k in runs.tensors.keys(n)
        }
        for key, after in runs.oracle(True).statistics.items():
            if runs.bounded.leaves_out(key):
                continue
            moved = key in before and not np.array_equal(before[key], after)
            if moved and key.rpartition(".")[2] != COUNTER and key not in answered:
                layer, what = key_of(key, quantity)
                yield Omission(rung, layer, key, what, FORGETS if given else FUNCTION)
        return
    for name in sorted(runs.tensors.opaque - parameters - runs.bounded.tensors.keys()):
        entry = key_of(name, quantity)
        if entry not in compared:
            reason = REPEATED if name in runs.assignment.parts else MADE
            yield Omission(rung, entry.layer, "(made)", entry.quantity, reason, True)


def _parameters(
    runs: Runs, rung: str, compared: set[Key], quantity: Quantity
) -> Iterator[Omission]:
    """Yield the port's parameters that were not compared, and unpaired ones of the reference."""
    used: dict[str, np.ndarray] = {}
    trained = runs.reference64.parameters()
    tied = [p for p in runs.projections if key_of(p.port[0], quantity) in compared]
    for key in (key for p in tied for key in p.reference):
        used[key] = np.ones(math.prod(runs.tensors.state_shapes[key]), bool)
    for name in sorted(runs.port64.parameters()):
        if any(name in p.port for p in tied):
            continue
        entry = key_of(name, quantity)
        if name in runs.assignment.own:
            # A function's constants are among its parameters.
            reason = OWN if runs.stateless else TRAINED
            yield Omission(rung, *_place(entry, "(none)"), reason, not runs.stateless)
            continue
        keys = runs.tensors.held(name)
        if entry in compared or name in runs.bounded.tensors:
            for key, places in keys.items():
                used[key] = used[key] | places if key in used else places
            continue
        frozen = bool(keys) and not keys.keys() & trained
        reason = UNTRAINED if frozen else REPEATED if keys and name in runs.tensors.opaque else MADE
        reason = UNUSED.replace("port", "reference") if not _known(runs, name) else reason
        reference = ", ".join(keys) or "(made)"
        yield Omission(rung, *_place(entry, reference), reason, not frozen)
    yield from _unanswered(runs, rung, used, quantity)


def _unanswered(
    runs: Runs, rung: str, used: dict[str, np.ndarray], quantity: Quantity
) -> Iterator[Omission]:
    """Yield the reference's parameters with a gradient that was compared with nothing."""
    names = runs.reference64.aliases()
    for key, gradient in runs.oracle(True).parameter_gradients.items():
        places = np.zeros(gradient.size, bool)
        for name in names.get(key, (key,)):
            places |= used.get(name, np.zeros(gradient.size, bool))
        rest = int(np.count_nonzero(gradient.ravel()[~places]))
        if rest:
            part = "" if rest == gradient.size else f"{rest} of {gradient.size} elements: "
            yield Omission(rung, *_place(key_of(key, quantity), key), f"{part}{UNUSED}", True)


def _known(runs: Runs, name: str) -> bool:
    return name in runs.assignment.map or name in runs.assignment.derived


def _place(entry: Key, reference: str) -> tuple[str, str, Quantity]:
    return entry.layer, reference, entry.quantity


def _gradients(runs: Runs, rung: str, compared: set[Key]) -> Iterator[Omission]:
    return _parameters(runs, rung, compared, Quantity(Kind.PARAMETER_GRADIENT))


def _steps(runs: Runs, rung: str, compared: set[Key]) -> Iterator[Omission]:
    if runs.port.schedules is None:
        reason = "no schedules were given"
        yield Omission(rung, NETWORK, NETWORK, Quantity(Kind.LEARNING_RATE), reason)
    yield from _parameters(runs, rung, compared, Quantity(Kind.STEP, step=1))


def _trajectory(runs: Runs, rung: str, compared: set[Key]) -> Iterator[Omission]:
    steps = [key.quantity.step for key in compared if key.quantity.kind is Kind.STATE]
    step = max(steps, default=1)
    yield from _parameters(runs, rung, compared, Quantity(Kind.STATE, step=step))
    yield from _statistics(runs, rung, compared, Quantity(Kind.STATE, step=step))


RULES = {
    "L0": _values,
    "L1": _layers,
    "L2": _whole,
    "L3": _gradients,
    "L4": _steps,
    "L5": _trajectory,
}
