"""References that are known in the working precision alone, such as one that has no float64.

There is no oracle then. What rounding does to such a reference is not known, but what it does to
the port is: the port is run in both precisions, and undisturbed and disturbed in float64. The rule
of `tolerances` holds with the roles exchanged: port and reference may differ by

    K * (|port - port64| + |port64 disturbed - port64|) + FLOOR

in either precision of the port, since a reference that is sound rounds no worse than the port does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parity.capture.records import NETWORK
from parity.capture.run import Run, Side
from parity.ladder import tolerances
from parity.ladder.keys import Flat, Key, against
from parity.ladder.tolerances import Difference, difference, spread_difference
from parity.report.quantity import Kind
from parity.spec import draw

if TYPE_CHECKING:
    from parity.ladder.runs import Runs

NOTE = "the reference was recorded in {} alone: the port's rounding says how far it may be off"
PORT64, DISTURBED = Run(Side.PORT), Run(Side.REFERENCE, disturbance=0)

Differences = dict[Run, dict[Key, Difference]]


def differences(runs: Runs, train: bool) -> Differences:
    """Return how far both runs of the port are from the reference, and from each other."""
    rng, scale = draw.generator(0, "stir", 0), tolerances.input_disturbance(runs.precision)
    inputs = runs.inputs[train]
    moved = tuple(tolerances.disturb(inputs, scale, rng))
    exact, rounded, disturbed = (
        runs.port_flat(side, given, train)
        for side, given in (
            (runs.port64, inputs),
            (runs.port_working, inputs),
            (runs.port64, moved),
        )
    )
    return compared(runs.precision, runs.flat(train), exact, rounded, disturbed)


def compared(
    precision: str, oracle: Flat, exact: Flat, rounded: Flat, disturbed: Flat
) -> Differences:
    """Return the differences from which a measurement is made, as if the reference had made them.

    Args:
        precision: The working precision.
        oracle: What was recorded.
        exact: What the port gives in float64.
        rounded: The same in the working precision.
        disturbed: The same in float64, disturbed.
    """
    keys = list(dict.fromkeys([*oracle, *exact, *rounded]))

    def each(run: Flat, target: Flat, dtype: str) -> dict[Key, Difference]:
        return {key: _difference(key, run, target, dtype) for key in keys}

    port, reference = (Run(side, precision) for side in (Side.PORT, Side.REFERENCE))
    return {
        PORT64: each(exact, oracle, "float64"),
        port: each(rounded, oracle, precision),
        reference: each(rounded, exact, precision),
        DISTURBED: each(disturbed, exact, "float64"),
    }


def _difference(key: Key, run: Flat, target: Flat, dtype: str) -> Difference:
    inner = key.layer != NETWORK and key.quantity.kind is Kind.OUTPUT
    array: Any = run.get(key)
    if inner and array is not None:
        return spread_difference(array, against(key, target, run), dtype)
    return difference(array, against(key, target, run), dtype)
