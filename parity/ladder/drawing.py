"""Finding and switching off what a reference draws by itself: dropout inside its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from parity.capture.records import NETWORK, RunRecord
from parity.capture.torch_draws import Watch, seeded
from parity.capture.torch_side import TorchSide
from parity.report.quantity import Mode
from parity.spec.errors import InputError
from parity.trace.side import RecordedSide


def settled(sides: Sequence[TorchSide], train: bool, run: Callable[[], RunRecord]) -> RunRecord:
    """Run the reference; where it draws random numbers, run it until it does not.

    Nothing is run twice unless a generator moved.

    Args:
        sides: The reference in each precision; what it draws is switched off in all of them.
        train: The mode that it runs in.
        run: Runs the first of them.

    Raises:
        InputError: Two runs give two answers, and what differs could not be switched off.
    """
    with Watch() as watch:
        result = run()
    if not watch.drawn:
        return result
    known, kept = dict(sides[0].quieted), sides[0].kept
    sides[0].kept = None  # which layer draws is seen where all are recorded
    for side in sides:
        side.quiet = True
    while True:
        with seeded(1):
            result = run()
        with seeded(2):
            again = run()
        layer = first_difference(result, again)
        if layer is None:
            break
        if not _silenced(sides, layer):
            place = f"in {layer}" if layer else "between its layers"
            raise InputError(
                f"the reference gives two answers in {Mode.of(train)} mode: first {place}, which"
                " draws random numbers; switch that off in the reference"
            )
    sides[0].kept = kept
    if not train:  # which no dropout should be at work in
        quieted = sides[0].quieted
        quieted |= {n: f"{w} in eval mode" for n, w in quieted.items() if n not in known}
    return result


def _silenced(sides: Sequence[TorchSide], layer: str) -> bool:
    module = layer.partition("#")[0]
    found = [not isinstance(side, RecordedSide) and side.silence(module) for side in sides]
    return all(found)


def switched_off(side: TorchSide) -> list[str]:
    """Return what was switched off: dropouts, and layers with what was switched off inside."""
    inside = [f"{name or NETWORK} ({what})" for name, what in side.quieted.items()]
    return [*side.silenced, *inside]


def first_difference(one: RunRecord, other: RunRecord) -> str | None:
    """Return the first layer whose outputs differ between two runs on equal inputs.

    A layer that is fed something else is not the one that differs: what lies before it in the layer
    around it is. The network itself is the empty name; None stands for no difference.
    """
    for name, call in one.calls.items():
        twin = other.calls.get(name)
        if twin is None:
            return _around(name)
        if not _same(call.outputs, twin.outputs):
            return name if _same(call.arrays(), twin.arrays()) else _around(name)
    return None if _same(one.outputs, other.outputs) else ""


def _around(name: str) -> str:
    return name.partition("#")[0].rpartition(".")[0]


def _same(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(one, other, strict=True)
    )
