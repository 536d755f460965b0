"""Taking back failures of layers alone where the pair is in question, and the network is right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from parity.ladder.axes import SAME, permutation
from parity.ladder.keys import Flat, Key, full_name, key_of
from parity.ladder.recorded import is_recorded
from parity.report.quantity import Kind, Quantity
from parity.report.report import Omission, Report

if TYPE_CHECKING:
    from parity.ladder.runs import Runs

GUESSED = ("weights", "value", "order")  # how pairs are made that nobody named
QUESTIONED = "it was paired by {how}, which is in question: {why}, and the network is right"
ALONE, INSIDE = "alone it is right", "it is fed other arrays than the reference's"
MADE = "its tensors are made of several"
OUTSIDE = (
    "it was paired by {how}, and alone its gradient differs only where those of both whole networks"
    " are the same: the port does outside of it what it lacks"
)


def question_pairs(runs: Runs, report: Report) -> set[str]:
    """Take back failures of layers that may be no pair, where all the rest is right.

    A layer that nobody named may be paired with another one that holds equal weights. Where the
    whole network's outputs, statistics and gradients are right, and a layer is right alone, or is
    fed other arrays than the reference's, or holds what was folded into it, it is no pair, and the
    port is not wrong.

    Nothing is taken back where an output of one side has no partner, for a layer may be used for
    that one alone, nor where some layers were left out.

    Returns:
        The rungs of which something was taken back.
    """
    failed = report.failures()
    needed = {"L1", "L2", "L3"} if runs.port.train else {"L1", "L2"}
    if runs.strict or not failed or not needed <= set(report.seconds) or runs.bounded.bounds:
        return set()
    pairs = runs.by_port
    folded = {name for name, pair in pairs.items() if pair.how == "name" and runs.names.mixed(pair)}
    wrong: dict[str, set[str]] = {}
    for check in failed:
        output = check.rung == "L2" and check.quantity.kind is Kind.OUTPUT
        pair = pairs.get(check.layer)
        guessed = pair is not None and (pair.how in GUESSED or check.layer in folded)
        if not (output or check.rung == "L1") or not guessed:
            return set()
        wrong.setdefault(check.layer, set()).add(check.rung)
    # Arithmetic that is less exact says nothing of the pair.
    if not set(wrong) <= {c.layer for c in failed if c.kind == "structure"}:
        return set()
    if any(_lacks_outputs(runs, train) for train in runs.modes):
        return set()
    if not folded & set(wrong) <= _of_reference(runs, folded & set(wrong)):
        return set()
    inside = {layer for layer, rungs in wrong.items() if "L1" in rungs}
    if inside and not inside <= _fed_otherwise(runs):
        return set()
    why = dict.fromkeys(wrong, ALONE) | dict.fromkeys(folded, MADE) | dict.fromkeys(inside, INSIDE)
    for layer, rungs in sorted(wrong.items()):
        for rung in sorted(rungs):
            reason = QUESTIONED.format(how=pairs[layer].how, why=why[layer])
            _take_back(report, layer, rung, reason)
    return {rung for rungs in wrong.values() for rung in rungs}


def _fed_otherwise(runs: Runs) -> set[str]:
    """Return the port's layers that are fed other arrays than the reference's, in eval mode."""
    ported = runs.port64.run(runs.inputs[False], False, fed=True).calls
    found = set()
    for name, pair in runs.alignment.pairs.items():
        mine, theirs = runs.oracle(False).calls.get(name), ported.get(pair.port)
        if mine is None or theirs is None:
            continue
        arrays = [[np.asarray(a) for a in call.arrays()] for call in (mine, theirs)]
        if len(arrays[0]) != len(arrays[1]) or any(
            permutation(a, b) is None for a, b in zip(*arrays, strict=True)
        ):
            found.add(pair.port)
    return found


def _take_back(report: Report, layer: str, rung: str, reason: str) -> None:
    """Say of a layer that it was not compared on a rung, on which it failed."""
    failed = next(c for c in report.failures() if (c.layer, c.rung) == (layer, rung))
    report.checks = [c for c in report.checks if (c.layer, c.rung) != (layer, rung)]
    report.left_out.append(Omission(rung, layer, failed.reference, failed.quantity, reason))


def _lacks_outputs(runs: Runs, train: bool) -> bool:
    """Return whether one side returns what the other does not."""
    outputs = runs.whole.outputs(train)
    return bool(outputs.reference or outputs.port)


def _of_reference(runs: Runs, layers: Iterable[str]) -> set[str]:
    """Return those of the port's layers whose outputs are ones of the reference's, up to axes.

    So are those of a convolution into which a norm was folded: they are the norm's.
    """
    layers = set(layers)
    if not layers:
        return set()
    ours = [o for call in runs.oracle(False).calls.values() for o in call.outputs]
    theirs = runs.run(runs.port64, False).calls
    return {
        name
        for name in layers & theirs.keys()
        if all(
            any(permutation(np.asarray(o), np.asarray(output)) is not None for o in ours)
            for output in theirs[name].outputs
        )
    }


def take_back_outside(runs: Runs, report: Report) -> None:
    """Take back gradients that are wrong in a layer alone, where the port mends them outside of it.

    So it is where the reference's embedding does not train the row of a padding, and the port
    stops that row's gradient after a plain one. What else is wrong is found then as if the layer
    were right.
    """
    if runs.strict or runs.failed or is_recorded(runs.port):
        return
    if not runs.port.train or not {"L1", "L3"} <= set(report.seconds):
        return
    for layer in _done_outside(runs, report):
        _take_back(report, layer, "L1", OUTSIDE.format(how=runs.by_port[layer].how))


def _done_outside(runs: Runs, report: Report) -> list[str]:
    """Return layers whose gradients alone are wrong only where both networks' are the same."""
    wrong: dict[str, set[Quantity]] = {}
    for check in report.failures():
        if check.rung == "L1":
            wrong.setdefault(check.layer, set()).add(check.quantity)
    doubtful = {
        layer: quantities
        for layer, quantities in wrong.items()
        if layer in runs.by_port
        and runs.by_port[layer].how in GUESSED
        and all(q.kind is Kind.PARAMETER_GRADIENT for q in quantities)
    }
    if not doubtful:
        return []
    whole = (runs.flat(True), runs.port_flat(runs.port64, runs.inputs[True], True))
    found = []
    for layer, quantities in doubtful.items():
        pair = runs.by_port[layer]
        call = runs.oracle(True).calls[pair.reference]
        fed = runs.layers.fed(call, True)
        alone = [
            runs.layers.alone(side, call, pair, True, fed)
            for side in (runs.reference64, runs.port64)
        ]
        if all(_is_same_outside(Key(layer, q), alone, whole) for q in quantities):
            found.append(layer)
    return found


def _is_same_outside(key: Key, alone: list[Flat], whole: tuple[Flat, Flat]) -> bool:
    """Return whether both networks' gradients are the same wherever a layer's two differ alone.

    They are zero there, or, of a tensor that is tied, what its other use gives: then the
    reference's layer gives exactly zero, and so the port's must have been stopped.
    """
    module = key.layer.partition("#")[0]
    name = full_name(module, key.quantity.path)
    outer = key_of(name, Quantity(Kind.PARAMETER_GRADIENT))
    if not all(key in flat for flat in alone) or not all(outer in flat for flat in whole):
        return False
    mine, other = (np.asarray(flat[key], np.float64) for flat in alone)
    if mine.shape != other.shape or any(flat[outer].shape != mine.shape for flat in whole):
        return False
    places = abs(mine - other) > SAME * abs(mine).max(initial=0)
    if not places.any():
        return False
    ours, theirs = (np.asarray(flat[outer], np.float64) for flat in whole)
    if not ours[places].any():
        return not theirs[places].any()
    apart = abs(ours - theirs)[places].max()
    return not mine[places].any() and bool(apart <= SAME * abs(ours).max())
