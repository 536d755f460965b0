"""Recording a reference, or a port, into a trace; see docs/traces.md."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

from parity.capture.jax_side import JaxSide
from parity.capture.jax_training import JaxTraining
from parity.capture.records import ForwardError, RunRecord, with_arrays
from parity.capture.run import FLOAT64
from parity.capture.torch_arrays import turned_back
from parity.capture.torch_backward import pull_back
from parity.capture.torch_draws import Quiet
from parity.capture.torch_lifting import Lifted
from parity.capture.torch_side import TorchSide
from parity.capture.torch_threads import one_thread
from parity.capture.torch_training import scheduler
from parity.ladder import tolerances
from parity.ladder.port import Port
from parity.ladder.probe_loss import Probe
from parity.ladder.reach import reaching
from parity.ladder.recorded import is_recorded, sides
from parity.ladder.runs import Runs
from parity.spec import draw
from parity.spec.errors import InputError
from parity.trace.recorder import PARTS, TorchRecorder, Trace, TraceError

Change = Callable[[Any], Any]  # of the arrays among the inputs, in the port's layout
Native = tuple[tuple[Any, ...], dict[str, Any]]  # arguments, positional and by keyword

EXPECTED = "expected a module and its inputs, a mapping of record_torch's options, or a Port"


def record(
    made: Any,
    path: str | Path,
    precision: str = "float32",
    parts: Sequence[str] = PARTS,
    train: bool = True,
) -> None:
    """Record a reference.

    Args:
        made: What a factory returned: (module, inputs), a mapping of `record_torch`'s options with
            `module` and `inputs`, or a `Port`, whose reference is recorded.
        path: The trace to write.
        precision: The working precision, if `made` does not say it.
        parts: See `TorchRecorder`; what `made` leaves out is left out, too.
        train: Whether train mode is recorded; the same.

    Raises:
        InputError: It is none of these, it raised, or the file cannot be written.
    """
    noted: dict[str, dict[str, str]] = {"lifted": {}, "quieted": {}}
    usual: dict[str, Any] = {"precision": precision, "parts": PARTS, "train": True}
    options = usual | _options(made, precision)
    options["train"] = options["train"] and train
    options["parts"] = [part for part in options["parts"] if part in parts or part not in PARTS]
    working = options["precision"]
    with _written(path, f"torch {torch.__version__}", working) as trace, one_thread():
        try:
            how = {"around": _around(noted), "backward": pull_back}
            TorchRecorder(trace, **how, **options).record()
        except (InputError, TraceError):
            raise
        except Exception as error:
            raise ForwardError("reference", "", error) from error
        trace.index["notes"].update(noted)


def _options(made: Any, precision: str) -> dict[str, Any]:
    if isinstance(made, Port):
        return _of_port(made, precision)
    if isinstance(made, tuple | list) and len(made) == 2:
        made = {"module": made[0], "inputs": made[1]}
    if not isinstance(made, Mapping) or not {"module", "inputs"} <= made.keys():
        raise InputError(f"the factory returned a {type(made).__name__}, {EXPECTED}")
    options = dict(made)
    if isinstance(options["inputs"], torch.Tensor | np.ndarray):
        options["inputs"] = [options["inputs"]]
    if not isinstance(options["inputs"], tuple | list):
        raise InputError(f"inputs are a {type(options['inputs']).__name__}, expected a list")
    known = set(inspect.signature(TorchRecorder).parameters) - {"trace", "around", "backward"}
    if unknown := sorted(options.keys() - known):
        raise InputError(f"the factory returned {unknown[0]!r}, {EXPECTED}")
    side = TorchSide(options["module"], FLOAT64)
    return options | {"module": side.module, "quiet": side.silenced}


def _of_port(port: Port, precision: str) -> dict[str, Any]:
    """Return the recorder's options for a port's reference, to make the runs that a check makes."""
    if is_recorded(port):
        raise InputError(f"{port.name}: its reference is a trace already, expected a module")
    side = TorchSide(port.reference, FLOAT64, port.layout)

    def disturbed(arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        scale, rng = tolerances.input_disturbance(precision), draw.generator(0, "stir", 0)
        return tuple(tolerances.disturb(arrays, scale, rng))

    reached = reaching(port, _runner(port, precision)).inputs

    def evaluated(change: Change = lambda arrays: arrays) -> Native:
        return _native(port, False, lambda _: change(reached))

    inputs, keywords = _native(port, True)
    options: dict[str, Any] = {
        "module": side.module,
        "quiet": side.silenced,
        "inputs": inputs,
        "keywords": keywords,
        "eval_inputs": evaluated()[0],
        "train": port.train,
        "seed": port.seed,
        "layout": port.layout,
        "steps": port.steps,
        "disturbed": {True: _native(port, True, disturbed), False: evaluated(disturbed)},
        "batches": [
            (
                _native(dataclasses.replace(port, inputs=given), True)[0],
                side.arguments(tuple(targets)),
            )
            for given, targets in port.batches
        ],
    }
    if port.call is not None:
        options["call"] = port.call[0]
    if port.losses is not None:
        options["loss"] = port.losses[0]
        options["targets"] = side.arguments(tuple(port.targets))
    if port.optimizers is not None:
        options["optimizer"] = port.optimizers[0]
    if port.schedules is not None:
        schedule, _, count = port.schedules
        options |= {"schedule": lambda optimizer: scheduler(optimizer, schedule), "rates": count}
    return options


def _runner(port: Port, precision: str) -> Callable[[tuple[np.ndarray, ...]], object]:
    """Return what runs the reference in eval mode, in float64."""
    ours = {train: port.signatures(train)[0] for train in (False, True)[: 1 + port.train]}
    reference = sides(port, precision, ours)[0]
    reference.input_axes = port.input_axes(port.train)
    return lambda arrays: reference.run(arrays, False)


def _native(port: Port, train: bool, change: Change = lambda arrays: arrays) -> Native:
    """Return a mode's arguments, positional and by keyword, as tensors in the reference's layout.

    Args:
        port: The port.
        train: The mode.
        change: Applied to the arrays in the port's layout.
    """
    axes = port.input_axes(train)
    made = [
        turned_back(array, axes[i] if i in axes else port.layout.get(array.ndim))
        for i, array in enumerate(change(port.arrays(train)))
    ]
    args, kwargs = with_arrays(port.signatures(train)[0].arguments.tree, made)
    return args, kwargs


def _around(noted: dict[str, dict[str, str]]) -> Callable[..., Any]:
    """Return what runs a module as a check does: without dropout, in float64 without casts."""

    @contextlib.contextmanager
    def around(running: list[str], dtype: torch.dtype) -> Iterator[None]:
        wide = Lifted(running) if dtype == torch.float64 else contextlib.nullcontext()
        with wide, Quiet(running, noted["quieted"]):
            yield
        if isinstance(wide, Lifted):
            noted["lifted"] |= wide.layers

    return around


def record_port(
    port: Port, path: str | Path, precision: str = "float32", train: bool = True
) -> None:
    """Record a port, with the weights and the loss that a check gives it, in its own layout.

    The gradients of layers' outputs are not recorded, nor are layers alone, nor single steps of
    the optimizer.

    Raises:
        InputError: The port cannot be run; see `Port`.
    """
    port = dataclasses.replace(port, train=port.train and train)
    with (
        _written(path, f"jax {jax.__version__}", precision) as trace,
        ThreadPoolExecutor(1) as pool,
        one_thread(),
    ):
        runs = Runs(port, precision, pool)
        if runs.failed:
            raise runs.failed
        PortRecorder(trace, runs).record()


class PortRecorder:
    """Runs a port, and records the runs."""

    def __init__(self, trace: Trace, runs: Runs) -> None:
        self.trace, self.runs = trace, runs

    def record(self) -> None:
        """Record the state, every run, and a trajectory."""
        runs = self.runs
        trained = runs.port64.parameters()
        for name, layer in runs.port64.layers.items():
            parts, modes = runs.port64.has_parts(name), runs.port64.has_modes(name)
            self.trace.layer(name, type(layer).__name__, parts=parts, modes=modes)
        for name, array in runs.port64.state().items():
            self.trace.state(name, array, name in trained)
        for train in runs.modes:
            for side, disturbance in (
                (runs.port64, None),
                (runs.port_working, None),
                (runs.port64, 0),
            ):
                self._run(side, train, disturbance)
        if runs.port.train and runs.port.optimizers is not None:
            self._trajectory(runs.port.optimizers[1])

    def _run(self, side: JaxSide, train: bool, disturbance: int | None) -> None:
        runs = self.runs
        inputs = runs.inputs[train]
        if disturbance is not None:
            rng = draw.generator(0, "stir", disturbance)
            scale = tolerances.input_disturbance(runs.precision)
            inputs = tolerances.disturb(inputs, scale, rng)
        losses, targets = runs.loss(runs.port.targets) if train else ((None, None), ())
        found = side.run(inputs, train, losses[1], targets, fed=True)
        run = self.trace.run("train" if train else "eval", str(side.dtype), disturbance)
        args, kwargs = with_arrays(runs.port.signatures(train)[1].arguments.tree, inputs)
        run["args"], run["kwargs"] = self._tree(args), self._tree(kwargs)
        run["targets"] = [self._stored(t) for t in targets]
        if isinstance(losses[1], Probe):
            self.trace.index["notes"]["probe"] = list(losses[1].places)
        self._results(run, found, side.outputs(train))

    def _results(self, run: dict[str, Any], found: RunRecord, returned: Sequence[Any]) -> None:
        for item in returned:
            array = self._stored(found.outputs[item.place]) if item.place >= 0 else None
            run["outputs"].append({"name": item.name, "kind": item.kind, "array": array})
        for call in found.calls.values():
            entry = {"layer": call.layer, "outputs": [self._stored(o) for o in call.outputs]}
            entry |= {"args": self._tree(call.args), "kwargs": self._tree(call.kwargs)}
            run["calls"].append(entry)
        if found.loss is not None:
            run["loss"] = self._stored(found.loss)
        run["input_gradients"] = [self._stored(g) for g in found.input_gradients]
        for key in ("parameter_gradients", "statistics"):
            run[key] = {n: self._stored(a) for n, a in getattr(found, key).items()}

    def _trajectory(self, optimizer: Any) -> None:
        training = JaxTraining(self.runs.port64, optimizer)
        self.trace.training("trajectory", FLOAT64)
        for step in range(self.runs.port.steps):
            inputs, targets = self.runs.port.batch(step)
            losses, targets = self.runs.loss(targets)
            gradients, loss = training.gradients(inputs, losses[1], targets)
            training.update(gradients)
            self.trace.step(training.state(), gradients, loss)

    def _stored(self, array: Any) -> str:
        array = np.asarray(array)
        if array.dtype.name == "bfloat16":
            return self.trace.array(array.astype(np.float32), "bfloat16")
        return self.trace.array(array)

    def _tree(self, value: Any) -> Any:
        return self.trace.tree(value, self._stored)


@contextlib.contextmanager
def _written(path: str | Path, framework: str, precision: str) -> Iterator[Trace]:
    """Context that writes a trace; nothing is left where it fails."""
    try:
        with Trace(path, framework, precision) as trace:
            yield trace
    except TraceError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
