"""What a run of either side gave, as one table of named arrays in the port's layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from parity.capture.records import NETWORK, Arrays, RunRecord
from parity.ladder.axes import rearranged
from parity.ladder.keys import Flat, Key, by_layer, key_of
from parity.ladder.layer_alone import axes_of
from parity.ladder.recorded import knows_gradients, lacks_input, lacks_loss
from parity.ladder.renaming import without
from parity.report.quantity import Kind, Mode, Quantity

if TYPE_CHECKING:
    from parity.ladder.runs import Runs


def flattened(runs: Runs, result: RunRecord, train: bool, ported: bool) -> Flat:
    """Return everything that a run gave, in the port's names and layout.

    Args:
        runs: Both sides.
        result: Of a run.
        train: Whether it ran in train mode.
        ported: Whether the port ran, else the reference.
    """
    mode = Mode.of(train)
    flat: Flat = {}
    for name, outputs in _outputs(runs, result, ported):
        for i, output in enumerate(outputs):
            flat[Key(name, Quantity(Kind.OUTPUT, index=i, mode=mode))] = output
    for i, output in enumerate(runs.whole.arrays(result, train, ported)):
        flat[Key(NETWORK, Quantity(Kind.OUTPUT, index=i, mode=mode))] = output
    if not train:
        return flat
    only = runs.bounded.only
    flat |= by_layer(Quantity(Kind.STATISTIC, mode=mode), only(_statistics(runs, result, ported)))
    gradients = only(runs.names.in_port(result.parameter_gradients, None, ported))
    gradients = without(gradients, runs.tensors.opaque | runs.names.frozen(None))
    if knows_gradients(runs.reference64):
        flat |= by_layer(Quantity(Kind.PARAMETER_GRADIENT), gradients)
    for tied in runs.projections:
        if not only(dict.fromkeys(tied.port)):
            continue
        along = tied.project(result.parameter_gradients, ported)
        if along is not None:
            dtype = result.loss.dtype if result.loss is not None else along.dtype
            flat[key_of(tied.port[0], Quantity(Kind.PARAMETER_GRADIENT))] = along.astype(dtype)
    if result.loss is not None and not lacks_loss(runs.reference64):
        flat[Key(NETWORK, Quantity(Kind.LOSS))] = np.asarray(result.loss)
    for i, gradient in enumerate(result.input_gradients):
        if not lacks_input(runs.reference64, i):
            flat[Key(NETWORK, Quantity(Kind.INPUT_GRADIENT, index=i))] = gradient
    return flat


def _statistics(runs: Runs, result: RunRecord, ported: bool) -> Arrays:
    """Return statistics after a run in train mode; of a function, those that it returned."""
    held = result.statistics
    if runs.stateless:
        places = runs.whole.statistics(True)
        if ported:
            return {name: result.outputs[place] for name, place in places.items()}
        found = runs.names.in_port(held, None, False)
        return {name: found[name] for name in places if name in found}
    return without(runs.names.in_port(held, None, ported), runs.tensors.opaque)


def _outputs(
    runs: Runs, result: RunRecord, ported: bool
) -> Iterator[tuple[str, Sequence[np.ndarray]]]:
    """Yield, for every compared layer, the port's name and its outputs."""
    for call in result.calls.values():
        pair = (runs.by_port if ported else runs.alignment.pairs).get(call.layer)
        if pair is None:
            if runs.strict and runs.bounded.compares(call.layer):
                yield call.layer, call.outputs
        elif ported:
            yield pair.port, call.outputs
        else:
            axes = axes_of(pair, len(call.outputs))
            yield pair.port, [rearranged(o, a) for o, a in zip(call.outputs, axes, strict=True)]
