"""Ports whose reference is a trace: what the trace says is filled in, what it lacks is named."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.capture.records import Arrays, transposed, with_arrays
from parity.capture.run import FLOAT64
from parity.capture.signature import Signature, arrays_in
from parity.capture.torch_side import TorchSide
from parity.capture.torch_training import TorchTraining
from parity.ladder import port_rounding, tolerances
from parity.ladder.axes import Axes
from parity.spec.errors import InputError
from parity.trace.reading import TraceFile
from parity.trace.side import RecordedSide, RecordedTraining, array_names, has_steps

if TYPE_CHECKING:
    from parity.ladder.port import Port
    from parity.ladder.runs import Runs

GIVEN = ("inputs", "eval_inputs", "keywords", "targets", "batches")  # fields that the trace fills
MODES = ("train", "eval")
UNSOUGHT = "the reference is a recording: causes are not sought"


def is_recorded(port: Port) -> bool:
    """Return whether a port's reference is a trace, or the path of one."""
    return isinstance(port.reference, str | Path | TraceFile)


def is_narrow(port: Port) -> bool:
    """Return whether a port's reference is a trace of runs in the working precision alone."""
    return isinstance(port.reference, TraceFile) and port.reference.narrow


def filled(port: Port) -> Port:
    """Return a port with what it is run on, as its trace says; another port as it is.

    Raises:
        InputError: The file is no trace, or the port and the trace do not fit.
    """
    if not isinstance(port.reference, str | Path):
        return port
    trace = TraceFile(port.reference)
    if given := [name for name in GIVEN if _is_given(getattr(port, name))]:
        raise InputError(f"{given[0]} is given, expected it left out: {trace.path} holds it")
    if port.weights is not None and not trace.index["state"]:
        raise InputError(f"weights are given, expected none: {trace.path} holds no state")
    if ("eval", trace.base, None) not in trace.runs:
        raise InputError(f"{trace.path} holds no run in {trace.base} in eval mode")
    train = port.train and ("train", trace.base, None) in trace.runs
    bare = dataclasses.replace(port, reference=trace, train=train, **_inputs(trace, train))
    turned = _in_port_layout(bare)
    if not train:
        return turned
    _refuse_other_keywords(trace)
    _refuse_loss(port, trace)
    run = trace.runs["train", trace.base, None]
    targets = tuple(_turned(trace.array(name), None, port) for name in run["targets"])
    batches = [_batch(trace, batch, bare) for batch in trace.index["batches"]]
    made = trace.training.get(("trajectory", FLOAT64, None))
    return dataclasses.replace(
        turned,
        targets=() if port.losses is None else targets,
        batches=batches,
        steps=len(made["steps"]) if made and made["steps"] else port.steps,
    )


def _refuse_other_keywords(trace: TraceFile) -> None:
    """Refuse a trace whose runs and batches were not all called with the same keyword arguments."""
    runs = {f"the run in {mode} mode": trace.runs[mode, trace.base, None] for mode in MODES}
    batches = {f"batch {i}": batch for i, batch in enumerate(trace.index["batches"])}
    expected, *rest = (runs | batches).items()
    for name, run in rest:
        if _content(trace, run["kwargs"]) != _content(trace, expected[1]["kwargs"]):
            said = f"{name} has other keyword arguments than {expected[0]}, expected the same"
            raise InputError(f"{trace.path}: {said}")


def _content(trace: TraceFile, tree: Any) -> str:
    """Return text that is equal for trees of equal arrays and values."""
    found = trace.tree(tree, trace.index["arrays"].__getitem__)
    return json.dumps(found, sort_keys=True, default=repr)


def _is_given(value: Any) -> bool:
    return value is not None and not (isinstance(value, Mapping | tuple | list) and not value)


def _refuse_loss(port: Port, trace: TraceFile) -> None:
    """Refuse a port whose loss is not the one that was recorded."""
    probe = "probe" in trace.index["notes"]
    if port.losses is None and not probe:
        raise InputError(
            f"{trace.path} was recorded with a loss: expected the port's, losses=(None, LOSS)"
        )
    if port.losses is not None and probe:
        raise InputError(f"losses are given, expected none: {trace.path} was recorded without")


def _inputs(trace: TraceFile, train: bool) -> dict[str, Any]:
    """Return the fields of a port that are its inputs, in the reference's layout."""

    def of(mode: str) -> tuple[Any, Any]:
        run = trace.runs[mode, trace.base, None]
        return trace.tree(run["args"], trace.array), trace.tree(run["kwargs"], trace.array)

    args, kwargs = of("train" if train else "eval")
    found = {"inputs": args, "keywords": kwargs}
    if train:
        found["eval_inputs"] = of("eval")[0]
    return found


def _in_port_layout(port: Port) -> Port:
    """Return a port whose inputs are turned from the reference's layout to the port's."""
    fields: dict[str, Any] = {}
    for name, train in (("inputs", True), ("eval_inputs", False)):
        args = getattr(port, name)
        if args is None:
            continue
        axes = port.input_axes(train)
        arrays = arrays_in(args, dict(port.keywords))
        made = [
            _turned(array, axes[i], None) if i in axes else _turned(array, None, port)
            for i, array in enumerate(arrays)
        ]
        fields[name], fields["keywords"] = with_arrays((tuple(args), dict(port.keywords)), made)
    return dataclasses.replace(port, **fields)


def _turned(array: np.ndarray, axes: Axes, port: Port | None) -> np.ndarray:
    axes = axes if port is None else port.layout.get(array.ndim)
    return np.ascontiguousarray(transposed(array, axes)).reshape(transposed(array, axes).shape)


def _batch(trace: TraceFile, batch: Mapping[str, Any], port: Port) -> tuple[Any, Any]:
    args = trace.tree(batch["args"], trace.array)
    turned = _in_port_layout(dataclasses.replace(port, inputs=args, eval_inputs=None))
    names = batch.get("targets", ())
    return turned.inputs, tuple(_turned(trace.array(name), None, port) for name in names)


def sides(
    port: Port, precision: str, signatures: Mapping[bool, Signature]
) -> tuple[TorchSide, TorchSide]:
    """Return the reference in float64 and in the working precision.

    Raises:
        InputError: The trace was recorded in another precision.
    """
    trace = port.reference
    if not isinstance(trace, TraceFile):
        made = [TorchSide(trace, d, port.layout, signatures) for d in (FLOAT64, precision)]
        return made[0], made[1]
    there = {run["precision"] for run in trace.index["runs"]} - {FLOAT64}
    if there and precision not in there:
        raise InputError(
            f"{trace.path} was recorded in {', '.join(sorted(there))}, not in {precision}"
        )
    return RecordedSide(trace, trace.base, port.layout), RecordedSide(trace, precision, port.layout)


def coarse(side: TorchSide) -> bool:
    """Return whether a reference is known in the working precision alone."""
    return isinstance(side, RecordedSide) and side.dtype != FLOAT64


def training_of(
    side: TorchSide, kind: str, make: Any, schedule: Any, disturb: bool = False
) -> TorchTraining:
    """Return the reference's training: live, or the recorded steps of a kind."""
    if isinstance(side, RecordedSide):
        return RecordedTraining(side, kind)
    return TorchTraining(side, make, schedule, disturb)


def probe_of(runs: Runs) -> tuple[list[int], list[np.ndarray]] | None:
    """Return the outputs' places and the weights of a recorded loss; None of a live one."""
    trace = runs.port.reference
    if not isinstance(trace, TraceFile):
        return None
    places = trace.index["notes"]["probe"]
    names = trace.runs["train", trace.base, None]["targets"]
    if len(places) != len(names):
        raise InputError(f"{trace.path}: {len(places)} outputs, {len(names)} targets of its loss")
    return list(places), [trace.array(name) for name in names]


def recorded_facts(port: Port) -> Iterator[tuple[str, bool, bool, bool]]:
    """Yield each recorded layer: whether it is innermost, holds tensors, and trained ones."""
    trace = port.reference if isinstance(port.reference, TraceFile) else TraceFile(port.reference)
    side = RecordedSide(trace, trace.base, port.layout)
    holders = [
        {name.rpartition(".")[0] for name in names}
        for names in ((*trace.index["state"], *trace.index["unsaved"]), side.parameters())
    ]
    called = (c["layer"].partition("#")[0] for r in trace.index["runs"] for c in r["calls"])
    for name in dict.fromkeys([*trace.index["layers"], *called]):
        yield name, not side.has_parts(name), name in holders[0], name in holders[1]


def recorded_notes(runs: Runs) -> list[str]:
    """Return lines on the trace that stands for the reference."""
    side = runs.reference64
    if not isinstance(side, RecordedSide):
        return []
    trace = side.trace
    by = f" by {trace.index['framework']}" if trace.index["framework"] else ""
    notes = [f"the reference is {trace.path}, recorded{by}, {trace.sha256[:16]}"]
    if trace.narrow:
        rule = f"the limit of {runs.precision}'s numerics judges the structure"
        notes.append(f"the reference was not recorded in {FLOAT64}, so {rule}")
    if coarse(side):
        notes.append(port_rounding.NOTE.format(trace.precision))
    if runs.drift.constants:
        notes.append("how far its constants' rounding moves the reference was not recorded")
    return notes


def loss_response(trace: TraceFile) -> float:
    """Return how far a loss moves where the inputs are disturbed, in the root of the mean square.

    One disturbance may leave a single number as it is by chance; its gradient says what many do.
    """
    run = trace.runs["train", FLOAT64, None]
    names = [name for key in ("args", "kwargs") for name in array_names(trace, run[key])]
    floats = [n for n in names if "float" in trace.index["arrays"][n]["dtype"]]
    pairs = [(x, g) for x, g in zip(floats, run["input_gradients"], strict=False) if g is not None]
    wide = [[trace.array(name).astype(np.float64) for name in pair] for pair in pairs]
    scale = tolerances.input_disturbance(trace.precision) / math.sqrt(3)  # of U(-1, 1)
    return scale * math.sqrt(sum(tolerances.norm(x * g) ** 2 for x, g in wide))


def knows_gradients(side: TorchSide) -> bool:
    """Return whether a reference's gradients of parameters are known; a trace may hold none."""
    if not isinstance(side, RecordedSide):
        return True
    run = side.trace.runs.get(("train", side.trace.base, None), {})
    return bool(run.get("parameter_gradients"))


def lacks_loss(side: TorchSide) -> bool:
    """Return whether the loss of the most exact run in train mode was not recorded."""
    if not isinstance(side, RecordedSide):
        return False
    run = side.trace.runs.get(("train", side.trace.base, None), {})
    return run.get("loss") is None


def lacks_step_loss(side: RecordedSide) -> bool:
    """Return whether the loss of a step of the trajectory was not recorded."""
    made = side.trace.training.get(("trajectory", FLOAT64, None), {"steps": []})
    return any(step["loss"] is None for step in made["steps"])


def lacks_input(side: TorchSide, place: int) -> bool:
    """Return whether the gradient of a floating-point input is not known: a trace may lack it."""
    return isinstance(side, RecordedSide) and side.lacks_input(place)


def stateless(runs: Runs) -> str:
    """Return why weights cannot be compared; empty if they can."""
    side = runs.reference64
    if not isinstance(side, RecordedSide) or side.trace.index["state"]:
        return ""
    return "the trace holds no state" if runs.port64.state() else ""


def numerics_of(runs: Runs, train: bool) -> bool:
    """Return whether the whole reference's rounding in a mode is known."""
    side, narrow = runs.reference64, runs.reference_working
    if not isinstance(side, RecordedSide) or not isinstance(narrow, RecordedSide):
        return True
    return coarse(side) or (narrow.has_run(train) and side.disturbed().has_run(train))


def has_numerics(runs: Runs, kind: str) -> bool:
    """Return whether the rounding of the reference's steps of a kind is known."""
    side, narrow = runs.reference64, runs.reference_working
    if not isinstance(side, RecordedSide) or not isinstance(narrow, RecordedSide):
        return True
    kinds = (kind, "decay") if has_decay(side) else (kind,)
    found = (has_steps(s, k) for s in (narrow, side.disturbed()) for k in kinds)
    return coarse(side) or all(found)


def has_decay(side: TorchSide) -> bool:
    """Return whether the reference's step on gradients of 0 is known; a trace may lack it."""
    return not isinstance(side, RecordedSide) or not _lacks(side, "decay", side.dtype)


def fed_gradients(side: RecordedSide) -> tuple[list[Arrays], Arrays]:
    """Return the gradients that a recorded optimizer was fed, step by step, and zeros like them."""
    steps = side.trace.training["update", side.dtype, None]["steps"]
    found = [side.trace.arrays(step.get("gradients", {})) for step in steps]
    return found, {name: np.zeros_like(g) for name, g in found[0].items()}


def rates_of(side: TorchSide, count: int) -> np.ndarray:
    """Return the first recorded learning rates; those of a live reference are not asked for here.

    Raises:
        InputError: Fewer were recorded.
    """
    if not isinstance(side, RecordedSide):
        return np.ones(count)
    rates = side.trace.index["rates"]
    if 0 < len(rates) < count:
        raise InputError(f"{side.trace.path} holds {len(rates)} rates, {count} are to be compared")
    return np.array(rates[:count], np.float64)


def lacking_steps(runs: Runs, kind: str) -> str:
    """Return why steps of a kind cannot be compared; empty if they can."""
    side = runs.reference64
    if not isinstance(side, RecordedSide):
        return ""
    precision = FLOAT64 if kind == "trajectory" else side.dtype
    return _lacks(side, kind, precision)


def _lacks(side: RecordedSide, kind: str, precision: str) -> str:
    """Return what a trace lacks of steps of a kind; nothing where it holds them."""
    made = side.trace.training.get((kind, precision, None))
    return "" if made and made["steps"] else f"the trace holds no steps of {kind} in {precision}"
