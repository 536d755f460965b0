"""Running the ladder of parity checks, L0 to L5, over any pair of networks.

Each rung compares structure in float64 and, except for the last, numerics in the working precision;
`parity.ladder.tolerances` defines the limits.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from parity.capture.records import ForwardError
from parity.capture.spill import release
from parity.capture.torch_side import one_thread
from parity.ladder.l0_weights import Weights
from parity.ladder.l1_layers import Layers
from parity.ladder.l2_l3_network import Gradients, Whole
from parity.ladder.l4_update import Update
from parity.ladder.l5_trajectory import Trajectory
from parity.ladder.port import Port
from parity.ladder.rung import Rung
from parity.ladder.runs import Runs
from parity.ladder.uncompared import left_out
from parity.report.quantity import Kind, Mode, Scope
from parity.report.report import PRECISIONS, RUNGS, Check, Report
from parity.spec.errors import listed

Progress = Callable[[str], None]
Explain = Callable[["Ladder", Report], None]


def climb(
    port: Port,
    levels: Sequence[str] = tuple(RUNGS),
    precision: str = "float32",
    progress: Progress = lambda _: None,
    explain: Explain = lambda ladder, report: None,
) -> Report:
    """Run the rungs of the ladder, in order.

    Args:
        port: The port to compare with its reference.
        levels: Which rungs, of `L0` to `L5`.
        precision: The working precision: `float32`, `bfloat16` or `float16`.
        progress: Called with the name of a rung when it begins.
        explain: Called with the ladder and its report at the end, while both sides can still be
            run, to put the causes that are proved into the report.

    Returns:
        Everything that was compared; `report.ok` is the verdict.

    Raises:
        ValueError: An unknown rung or precision, or no rung.
        InputError: The port cannot be compared: see `Port` for what it must be.
        ForwardError: A network raised while it ran. If L1 can name the layer at fault, its message
            ends with that, and `report` is what was compared until then.
    """
    levels = _known(levels, precision)
    with ThreadPoolExecutor(2) as pool, one_thread():
        runs = Runs(port, precision, pool)
        ladder = Ladder(runs)
        report = Report(port.name, precision, notes=ladder.notes, unseen=unseen(levels))
        if {"L2", "L3"} & set(levels):
            runs.start((True, False) if "L2" in levels else (True,))
        for level in levels:
            if reason := ladder.rungs[level].absent():
                ladder.notes.append(f"{level} left out: {reason}")
                continue
            if runs.failed and level in ("L2", "L3", "L4", "L5"):
                raise _explained(runs.failed, report)
            start = time.perf_counter()
            progress(f"{level} {RUNGS[level]}")
            checks = ladder.rungs[level].climb()
            report.checks += checks
            report.left_out += left_out(runs, level, checks)
            report.seconds[level] = time.perf_counter() - start
            if runs.large:
                release()
        if runs.failed and report.ok:
            raise runs.failed
        if "L1" in levels and {c.rung for c in report.failures()} & {"L2", "L3"}:
            progress("L1 blocks")
            report.checks += ladder.layers.blocks(report)
        report.checks = _with_isolated(report.checks)
        explain(ladder, report)
    return report


# What no rung but one of these sees.
SEEN_BY = (
    (("L0",), "whether every weight was carried over: run L0"),
    (("L2", "L3"), "what happens between layers: run L2"),
    (("L3",), "the loss and the gradients: run L3"),
)


def unseen(levels: Sequence[str]) -> list[str]:
    """Return lines on what the chosen rungs, of the first four, cannot detect."""
    chosen = levels[0] + " alone does" if len(levels) == 1 else ", ".join(levels) + " do"
    found = [f"{chosen} not see {what}" for by, what in SEEN_BY if not set(by) & set(levels)]
    if "L3" in levels and "L2" not in levels:
        found.append(f"{chosen} not see what happens in eval mode: run L2")
    return found


class Ladder:
    """One pass over the rungs. Whole networks are run once and serve every rung.

    Attributes:
        notes: Lines on layers that could not be paired or run alone, and on what was switched off.
    """

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.notes = list(runs.alignment.notes())
        if runs.reference64.silenced:
            self.notes.append(f"switched off on both sides: {listed(runs.reference64.silenced)}")
        self.layers = Layers(runs, self.notes)
        self.update, self.trajectory = Update(runs, self.notes), Trajectory(runs, self.notes)
        self.rungs: dict[str, Rung] = {
            "L0": Weights(runs, self.notes),
            "L1": self.layers,
            "L2": Whole(runs, self.notes),
            "L3": Gradients(runs, self.notes),
            "L4": self.update,
            "L5": self.trajectory,
        }


def _known(levels: Sequence[str], precision: str) -> list[str]:
    """Check the rungs and the precision; return the rungs in order."""
    if unknown := [level for level in levels if level not in RUNGS]:
        raise ValueError(f"unknown rung {unknown[0]!r}, expected one of {', '.join(RUNGS)}")
    if not levels:
        raise ValueError(f"no rung to climb, expected one of {', '.join(RUNGS)}")
    if precision not in PRECISIONS:
        raise ValueError(
            f"unknown precision {precision!r}, expected one of {', '.join(PRECISIONS)}"
        )
    return sorted(set(levels))


def _with_isolated(checks: list[Check]) -> list[Check]:
    """Add to each failed output of the network the error of the layer run alone."""
    alone = {(c.kind, c.layer, c.quantity): c.error for c in checks if c.rung == "L1"}

    def isolated(c: Check) -> float | None:
        """Return the layer's error when run alone, in the same mode, or else in train mode."""
        layer = dataclasses.replace(c.quantity, scope=Scope.LAYER)
        train = dataclasses.replace(layer, mode=Mode.TRAIN)
        return alone.get((c.kind, c.layer, layer), alone.get((c.kind, c.layer, train)))

    return [
        dataclasses.replace(c, isolated=isolated(c))
        if c.rung == "L2" and not c.ok and c.quantity.kind is Kind.OUTPUT
        else c
        for c in checks
    ]


def _explained(error: ForwardError, report: Report) -> ForwardError:
    """Add L1's result to an error, if it found a fault."""
    fault = report.fault()
    if fault is not None:
        error.args = (f"{error}; alone, {fault.sentence()}",)
    error.report = report
    return error
