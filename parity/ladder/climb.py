"""Running the ladder of parity checks, L0 to L5, over any pair of networks.

Each rung compares structure in float64 and, except for the last, numerics in the working precision;
`parity.ladder.tolerances` defines the limits.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from parity.capture.jax_draws import drawn
from parity.capture.records import ForwardError
from parity.capture.spill import release
from parity.capture.torch_threads import one_thread
from parity.ladder.bounds import EVERYTHING, Bounds
from parity.ladder.drawing import switched_off
from parity.ladder.l0_weights import Weights
from parity.ladder.l1_layers import Layers
from parity.ladder.l2_l3_network import Gradients, Whole
from parity.ladder.l4_update import Update
from parity.ladder.l5_trajectory import Trajectory
from parity.ladder.lacking import absent_rung
from parity.ladder.noise import without_noise, without_overflows
from parity.ladder.paired import paired
from parity.ladder.port import Port
from parity.ladder.questioned import question_pairs, take_back_outside
from parity.ladder.recorded import UNSOUGHT, is_recorded, recorded_notes
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
    bounds: Bounds = EVERYTHING,
) -> Report:
    """Run the rungs of the ladder, in order.

    Args:
        port: The port to compare with its reference.
        levels: Which rungs, of `L0` to `L5`.
        precision: The working precision: `float32`, `bfloat16` or `float16`.
        progress: Called with the name of a rung when it begins.
        explain: Called with the ladder and its report at the end, while both sides can still be
            run, to put the causes that are proved into the report.
        bounds: Which layers are compared.

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
        runs = Runs(port, precision, pool, bounds)
        ladder = Ladder(runs)
        report = _begun(ladder, levels)
        if {"L2", "L3"} & set(levels):
            runs.start((True, False) if "L2" in levels else (True,))
        for level in levels:
            _climb_rung(ladder, report, level, progress)
        if runs.failed and not report.failures():
            raise runs.failed
        take_back_outside(runs, report)
        if "L1" in levels and {c.rung for c in report.failures()} & {"L2", "L3"}:
            progress("L1 blocks")
            report.checks += ladder.layers.blocks(report)
        report.checks = _with_isolated(report.checks)
        _add_notes(ladder, report, levels)
        report.noted = runs.alignment.noted() | ladder.layers.unfed
        report.pairs = list(paired(runs))
        taken_back = question_pairs(runs, report)
        if "L1" in taken_back and not any(c.rung == "L1" for c in report.checks):
            report.checks += ladder.layers.whole()
        if is_recorded(runs.port):
            report.unsought = UNSOUGHT
        else:
            explain(ladder, report)
    return report


def _begun(ladder: Ladder, levels: Sequence[str]) -> Report:
    """Return the report of a ladder of which no rung has been climbed."""
    runs, port = ladder.runs, ladder.runs.port
    ladder.notes += runs.reach.notes()
    return Report(
        port.name,
        runs.precision,
        notes=ladder.notes,
        unseen=[
            *unseen(levels, port.train),
            *map(str, runs.bounded.bound()),
            *runs.reach.unseen(),
        ],
        inference=not port.train,
        bounds=runs.bounded.bound(),
    )


def _climb_rung(ladder: Ladder, report: Report, level: str, progress: Progress) -> None:
    """Climb a rung, and add what it compared to the report.

    Raises:
        ForwardError: A network raises, and the rung needs the whole network.
    """
    runs, rung = ladder.runs, ladder.rungs[level]
    if absence := rung.absent():
        ladder.notes.append(f"{level} left out: {absence.reason}")
        report.left_out += absent_rung(runs, level, absence)
        return
    if runs.failed and level in ("L2", "L3", "L4", "L5"):
        raise _explained(runs.failed, report)
    start = time.perf_counter()
    progress(f"{level} {RUNGS[level]}")
    checks = rung.climb()
    report.left_out += left_out(runs, level, checks)
    checks, overflows = without_overflows(checks)
    report.left_out += overflows
    if isinstance(rung, Trajectory):
        checks, noise = without_noise(checks, runs.port64.parameters())
        report.left_out += [*noise, *rung.left_out]
    report.checks += checks
    report.seconds[level] = time.perf_counter() - start
    if runs.large:
        release()


def _add_notes(ladder: Ladder, report: Report, levels: Sequence[str]) -> None:
    """Add notes on outputs, on what was switched off, and on what the port may be meant for."""
    runs = ladder.runs
    if "L2" in levels:
        ladder.notes += runs.whole.outputs(runs.port.train).notes()
    if quiet := switched_off(runs.reference64):
        ladder.notes.append(f"switched off on both sides: {listed(quiet)}")
    if places := _drawn(runs, report):
        ladder.notes.append(
            "the port gives two answers in train mode, if anything depends on the random"
            f" numbers drawn at {listed(places)}"
        )
    elif _is_for_inference(runs, report):
        ladder.notes.append(
            "in eval mode all agrees: if the port is for inference alone, say so with"
            " Port(train=False) or --eval"
        )


def _drawn(runs: Runs, report: Report) -> list[str]:
    """Return where the port draws random numbers, where it fails in train mode only."""
    if not runs.port.train or runs.failed or not _only_training(report):
        return []
    return drawn(runs.port64.jaxpr(runs.inputs[True], True))


def _is_for_inference(runs: Runs, report: Report) -> bool:
    """Return whether the port may be one that is never trained: it does not update statistics."""
    moved = any(c.quantity.kind is Kind.STATISTIC for c in report.failures())
    return runs.port.train and moved and _only_training(report)


def _only_training(report: Report) -> bool:
    """Return whether all that failed is of train mode, and eval mode was compared."""
    evaluated = any(c.quantity.mode is Mode.EVAL and c.rung == "L2" for c in report.checks)
    failed = report.failures()
    return (
        evaluated
        and bool(failed)
        and all(c.rung != "L0" and c.quantity.mode is not Mode.EVAL for c in failed)
    )


# What no rung but one of these sees.
SEEN_BY = (
    (("L0",), "whether every weight was carried over: run L0"),
    (("L2", "L3"), "what happens between layers: run L2"),
    (("L3",), "the loss and the gradients: run L3"),
)


def unseen(levels: Sequence[str], train: bool = True) -> list[str]:
    """Return lines on what the chosen rungs, of the first four, cannot detect.

    Args:
        levels: The rungs.
        train: Whether train mode is compared.
    """
    chosen = levels[0] + " alone does" if len(levels) == 1 else ", ".join(levels) + " do"
    sights = SEEN_BY if train else SEEN_BY[:-1]
    found = [f"{chosen} not see {what}" for by, what in sights if not set(by) & set(levels)]
    if not train:
        return [*found, "inference check: train mode was not compared"]
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
        if runs.assignment.own:
            own = listed(sorted(runs.assignment.own))
            self.notes.append(f"the port's own, not compared: {own}")
        self.notes += narrow_notes(runs)
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


def narrow_notes(runs: Runs) -> list[str]:
    """Return lines on what computes in a narrower type than float64 inside."""
    notes = recorded_notes(runs)
    network = "the network itself"
    lifted = {"reference": runs.reference64.lifted, "port": runs.port64.narrow("lifted")}
    for side, layers in lifted.items():
        if layers:
            names = listed([name or network for name in layers])
            notes.append(f"the {side} computes in float32 inside; structure is in float64: {names}")
    if kept := runs.port64.narrow("kept"):
        names = listed([f"{name or network} ({what})" for name, what in kept.items()])
        rule = f"the rule of {runs.precision}"
        notes.append(f"cannot be computed in float64, so {rule} judges the structure: {names}")
    if runs.drift.constants:
        notes.append(
            f"constants that the reference holds in float32: {listed(runs.drift.constants)}"
        )
    return notes


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
