"""What a trace that stands for the reference lacks, as something that was not compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from parity.capture.records import NETWORK
from parity.ladder.recorded import (
    coarse,
    has_decay,
    has_numerics,
    lacks_step_loss,
    numerics_of,
)
from parity.ladder.rung import Absence, Lacking
from parity.report.quantity import Kind, Mode, Quantity
from parity.report.report import Omission
from parity.trace.side import RecordedSide

if TYPE_CHECKING:
    from parity.ladder.runs import Runs

NO_NUMERICS = "structure alone is compared"
WITHIN = "what they gave in the whole network is compared, in float64"


def lacking(runs: Runs, rung: str) -> Iterator[Omission]:
    """Yield what a trace lacks for a rung; nothing of a live reference."""
    side, narrow = runs.reference64, runs.reference_working
    if not isinstance(side, RecordedSide) or not isinstance(narrow, RecordedSide):
        return

    def omission(kind: Kind, reason: str, required: bool = False, **fields: Any) -> Omission:
        return Omission(rung, NETWORK, NETWORK, Quantity(kind, **fields), reason, required)

    modes = [train for train in runs.modes if rung == "L2" or train or not runs.port.train]
    for train in modes:
        mode = Mode.of(train)
        if rung in ("L2", "L3") and not numerics_of(runs, train):
            reason = f"the trace holds no runs in {runs.precision} and disturbed: {NO_NUMERICS}"
            yield omission(Kind.OUTPUT, reason, mode=mode)
        if rung == "L1" and side.key(train) not in side.trace.alone:
            quantity = Kind.INPUT_GRADIENT if train else Kind.OUTPUT
            yield omission(quantity, f"the trace holds no layers alone: {WITHIN}", mode=mode)
        elif rung == "L1" and not coarse(side) and not _alone_numerics(side, narrow, train):
            reason = f"the trace holds no layers alone in {runs.precision}: {NO_NUMERICS}"
            yield omission(Kind.OUTPUT, reason, mode=mode)
    if rung == "L3" and runs.port.train:
        yield from _gradients(side, omission)
    if rung == "L5" and lacks_step_loss(side):
        yield omission(Kind.LOSS, "the trace does not hold it", step=1)
    if rung == "L3" and runs.port.train and not coarse(side) and numerics_of(runs, True):
        yield from _rounded_gradients(side, narrow, omission)
    if rung == "L4":
        if not has_numerics(runs, "update"):
            reason = f"the trace holds no steps in {runs.precision} and disturbed: {NO_NUMERICS}"
            yield omission(Kind.STEP, reason, step=1)
        if not has_decay(side):
            reason = f"the trace holds no steps of decay in {side.dtype}"
            yield omission(Kind.DECAY_STEP, reason, step=0)
        if runs.port.schedules is not None and not side.trace.index["rates"]:
            yield omission(Kind.LEARNING_RATE, "the trace holds no rates", required=True)


def _gradients(side: RecordedSide, omission: Any) -> Iterator[Omission]:
    """Yield what the run in train mode lacks."""
    run = side.trace.runs["train", side.dtype, None]
    if run["loss"] is None:
        yield omission(Kind.LOSS, "the trace does not hold it", required=True)
    if not run["parameter_gradients"]:
        yield omission(Kind.PARAMETER_GRADIENT, "the trace holds none", required=True)
    if not run["input_gradients"]:
        yield omission(Kind.INPUT_GRADIENT, "the trace holds none")
    for i, name in enumerate(run["input_gradients"]):
        if name is None:
            yield omission(Kind.INPUT_GRADIENT, "the trace does not hold it", index=i)


def _rounded_gradients(
    side: RecordedSide, narrow: RecordedSide, omission: Any
) -> Iterator[Omission]:
    """Yield what the runs that say how far rounding goes lack of the one in float64."""
    exact = side.trace.runs[side.key(True)]
    for other in (narrow, side.disturbed()):
        run = other.trace.runs[other.key(True)]
        where = f"in {other.dtype}" + ", disturbed" * (other.disturbance is not None)

        def lack(what: str, part: str = "no", where: str = where) -> str:
            holds = "holds no" if part == "no" else "does not hold all"
            return f"the trace {holds} {what} {where}: {NO_NUMERICS}"

        if exact["loss"] is not None and run["loss"] is None:
            yield omission(Kind.LOSS, lack("loss"))
        if exact["parameter_gradients"].keys() - run["parameter_gradients"].keys():
            part = "all" if run["parameter_gradients"] else "no"
            yield omission(Kind.PARAMETER_GRADIENT, lack("gradients", part), path="parameters")
        pairs = itertools.zip_longest(exact["input_gradients"], run["input_gradients"])
        for i, (mine, theirs) in enumerate(pairs):
            if mine is not None and theirs is None:
                yield omission(Kind.INPUT_GRADIENT, lack("gradient of it"), index=i)


def _alone_numerics(side: RecordedSide, narrow: RecordedSide, train: bool) -> bool:
    calls = side.trace.alone.get(side.key(train), {"layers": ()})
    return all(
        narrow.has_layer(call, train) and side.disturbed().has_layer(call, train)
        for call in calls["layers"]
    )


def absent_rung(runs: Runs, rung: str, absence: Absence) -> list[Omission]:
    """Return what a rung that is left out does not compare; nothing where the port has none."""
    if absence.by is Lacking.PORT:
        return []
    if absence.by is Lacking.BOUNDS:
        return list(runs.bounded.omissions(rung))
    kinds = {"L0": Quantity(Kind.VALUES), "L4": Quantity(Kind.STEP, step=1)}
    quantity = kinds.get(rung, Quantity(Kind.STATE, step=1))
    return [Omission(rung, NETWORK, NETWORK, quantity, absence.reason)]
