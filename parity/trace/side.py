"""A recorded reference in the place of a live one: it gives back what was recorded."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from parity.capture.records import (
    Arrays,
    Call,
    Cotangents,
    Layout,
    Returned,
    RunRecord,
    is_exact,
    is_float,
    leaves,
    transposed,
)
from parity.capture.run import FLOAT64
from parity.capture.torch_side import TorchSide
from parity.capture.torch_training import TorchTraining
from parity.spec.errors import InputError
from parity.trace.reading import Stored, TraceFile

Axes = tuple[int, ...] | None  # from the reference's to the port's


class NotRecordedError(InputError):
    """A trace lacks a run."""


class RecordedSide(TorchSide):
    """A reference that was recorded, in one precision; see `TorchSide`, whose place it takes.

    There is no module behind it: what needs one, such as the search for causes, cannot use it.

    Args:
        trace: The trace.
        dtype: The precision of its runs.
        layout: The permutations of axes from the reference's layout to the port's.

    Attributes:
        disturbance: The number of the disturbance whose runs are given back; None: none.
        input_axes: The network's inputs by number, whose permutation is not that of `layout`.
        output_axes: The same of its outputs, in eval mode and in train mode.
        silenced: Names of the dropouts that were switched off.
        quieted: Layers with a dropout inside that was -> what it was.
        lifted: Layers in which a cast was left out, and what it was.
    """

    def __init__(self, trace: TraceFile, dtype: str, layout: Layout) -> None:
        self.trace = trace.widened() if trace.narrow and dtype == FLOAT64 else trace
        self.dtype, self.layout = dtype, layout
        self.disturbance: int | None = None
        self.input_axes: dict[int, Axes] = {}
        self.output_axes: dict[bool, dict[int, Axes]] = {False: {}, True: {}}
        notes = trace.index["notes"]
        self.silenced: list[str] = list(notes.get("switched_off", ()))
        self.quieted: dict[str, str] = dict(notes.get("quieted", {}))
        self.lifted: dict[str, str] = dict(notes.get("lifted", {}))
        self.quiet = False
        self._layers = trace.index["layers"]
        called = {c["layer"].partition("#")[0] for r in trace.index["runs"] for c in r["calls"]}
        self._names = {*called, *self._layers} - {""}
        self._outer = {name[:i] for name in self._names for i, c in enumerate(name) if c == "."}

    # The network.

    def kind(self, layer: str) -> str:
        """The class of a layer; empty where it was not recorded."""
        return str(self._layers.get(layer, {}).get("kind", ""))

    def is_of_library(self, layer: str) -> bool:
        """Return whether a layer may be one of PyTorch's own: a trace holds its class's name."""
        return not self.kind(layer) or hasattr(torch.nn, self.kind(layer))

    def settings(self, layer: str) -> dict[str, Any]:
        return dict(self._layers.get(layer, {}).get("settings", {}))

    def has_parts(self, layer: str) -> bool:
        """Return whether a layer is made of layers."""
        return bool(self._layers.get(layer, {}).get("parts", layer in self._outer))

    def parts(self, layer: str) -> list[str]:
        """Return the dotted names of a layer and of all inside it; of all layers if it is empty."""
        inside = f"{layer}." if layer else ""
        return sorted(n for n in self._names if n == layer or n.startswith(inside))

    def has_modes(self, layer: str) -> bool:
        """Return whether a layer may compute something else in eval mode."""
        return bool(self._layers.get(layer, {}).get("modes", False))

    def channels_last(self, layer: str) -> bool:
        """Return whether a layer's channels are on the last axis."""
        return bool(self._layers.get(layer, {}).get("channels_last", False))

    def state(self) -> Arrays:
        return self._floats(self.trace.arrays(self.trace.index["state"]))

    def unsaved(self) -> Arrays:
        """Return the buffers that no checkpoint holds, by name."""
        return self._floats(self.trace.arrays(self.trace.index["unsaved"]))

    def _floats(self, arrays: Arrays) -> Arrays:
        return {n: a.astype(self.dtype) if is_float(a.dtype) else a for n, a in arrays.items()}

    def parameters(self) -> set[str]:
        """Return the names of the trained parameters; a tied tensor has several."""
        return set(self.trace.index["trained"])

    def aliases(self) -> dict[str, tuple[str, ...]]:
        """A parameter's first name -> all of its names; a tensor that is tied has several."""
        return {name: tuple(names) for name, names in self.trace.index["aliases"].items()}

    def constants(self, assigned: Set[str]) -> list[str]:
        """Return float tensors that nobody trains or takes, and that float32 holds rounded."""
        trained, found = self.parameters(), []
        names = {**self.trace.index["unsaved"], **self.trace.index["state"]}
        for name, stored in names.items():
            if name in assigned or name in trained:
                continue
            array = self.trace.array(stored)
            narrow = array.astype(np.float32)
            if not is_float(array.dtype) or is_exact(narrow):
                continue
            if np.array_equal(narrow.astype(array.dtype), array, equal_nan=True):
                found.append(name)
        return found

    # What was recorded.

    def has_run(self, train: bool) -> bool:
        """Return whether the whole network's run in a mode is there."""
        return self.key(train) in self.trace.runs

    def has_layer(self, call: str, train: bool) -> bool:
        """Return whether a call of a layer was recorded alone."""
        return call in self.trace.alone.get(self.key(train), {"layers": ()})["layers"]

    def disturbed(self, scale: float = 0.0, rng: Any = None) -> RecordedSide:
        """Return the side that gives back disturbed runs, however they were disturbed.

        Args:
            scale: Not used: the recorder has drawn.
            rng: The same.
        """
        del scale, rng
        side = copy.copy(self)
        side.disturbance = 0
        return side

    def noisy(self, scale: float = 0.0, make: Any = None) -> RecordedSide:
        """Return the side that gives back disturbed layers; see `disturbed`."""
        return self.disturbed(scale, make)

    def key(self, train: bool) -> tuple[str, str, int | None]:
        """Return the mode, precision and disturbance of the runs that are given back."""
        return "train" if train else "eval", self.dtype, self.disturbance

    def _name(self, train: bool) -> str:
        mode, precision, disturbance = self.key(train)
        return f"{precision} in {mode} mode" + ", disturbed" * (disturbance is not None)

    # Runs.

    def run(self, inputs: Any, train: bool, *_: Any, **__: Any) -> RunRecord:
        """Return the recorded run of the whole network; see `TorchSide.run`.

        Args:
            inputs: Not used, as all that follows `train`: what it was called with was recorded.
            train: Train mode, else eval mode.

        Raises:
            NotRecordedError: It was not recorded.
        """
        del inputs
        found = self.trace.runs.get(self.key(train))
        if found is None:
            raise NotRecordedError(f"{self.trace.path} holds no run in {self._name(train)}")
        outputs = [o for o in found["outputs"] if o["array"] is not None]
        places = {id(o): i for i, o in enumerate(outputs)}
        loss = found["loss"]
        return RunRecord(
            outputs=self._copied([o["array"] for o in outputs], self.output_axes[train]),
            calls={c["layer"]: self._call(c) for c in found["calls"]},
            loss=None if loss is None else self.trace.array(loss),
            parameter_gradients=self.trace.arrays(found["parameter_gradients"]),
            input_gradients=self._of_inputs(found),
            statistics=self.trace.arrays(found["statistics"]),
            returned=[
                Returned(o["name"], o.get("kind", ""), places.get(id(o), -1))
                for o in found["outputs"]
            ],
        )

    def _call(self, call: Mapping[str, Any]) -> Call:
        def laid_out(name: str) -> Any:
            array = self.trace.lazy(name)
            return transposed(array, self.layout.get(array.ndim))

        cotangents = call["cotangents"] or [None] * len(call["outputs"])
        return Call(
            call["layer"],
            self.trace.tree(call["args"], laid_out),
            self.trace.tree(call["kwargs"], laid_out),
            tuple(laid_out(name) for name in call["outputs"]),
            [None if name is None else laid_out(name) for name in cotangents],
        )

    def _float_axes(self, run: Mapping[str, Any]) -> dict[int, Axes]:
        """Return `input_axes` by the inputs' numbers among those that are floating-point."""
        trees = (run["args"], run["kwargs"])
        names = [n for tree in trees for n in array_names(self.trace, tree)]
        dtypes = self.trace.index["arrays"]
        floats = [i for i, n in enumerate(names) if "float" in dtypes[n]["dtype"]]
        return {j: self.input_axes[i] for j, i in enumerate(floats) if i in self.input_axes}

    def _of_inputs(self, run: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
        """Return the gradients of a network's inputs; one of no elements where there is none."""
        names, axes = run["input_gradients"], self._float_axes(run)
        places = [i for i, name in enumerate(names) if name is not None]
        turned = self._turned(
            [names[i] for i in places], {j: axes[i] for j, i in enumerate(places) if i in axes}
        )
        found = dict(zip(places, turned, strict=True))
        return tuple(found.get(i, np.zeros(0)) for i in range(len(names)))

    def lacks_input(self, place: int) -> bool:
        """Return whether the gradient of one of the floating-point inputs was not recorded."""
        run = self.trace.runs.get(("train", self.trace.base, None), {"input_gradients": []})
        names = run["input_gradients"]
        return place >= len(names) or names[place] is None

    def _turned(
        self, names: Sequence[str], given: Mapping[int, Axes] = MappingProxyType({})
    ) -> tuple[np.ndarray, ...]:
        arrays = map(self.trace.array, names)
        return tuple(
            transposed(a, given[i] if i in given else self.layout.get(a.ndim))
            for i, a in enumerate(arrays)
        )

    def _copied(
        self, names: Sequence[str], given: Mapping[int, Axes] = MappingProxyType({})
    ) -> tuple[np.ndarray, ...]:
        return tuple(a.copy() for a in self._turned(names, given))

    def run_layer(self, call: Call, cotangents: Cotangents, train: bool) -> RunRecord:
        """Return the recorded run of one layer alone; see `TorchSide.run_layer`.

        Where there is none, what the layer gave in the whole network, if it is undisturbed.

        Raises:
            NotRecordedError: It was not recorded.
        """
        if not self.has_layer(call.layer, train) and self.disturbance is None:
            return self._within(call, train)
        if not self.has_layer(call.layer, train):
            where = f"{call.layer} alone, {self._name(train)}"
            raise NotRecordedError(f"{self.trace.path} holds no run of {where}")
        found = self.trace.alone[self.key(train)]["layers"][call.layer]
        result = RunRecord(
            outputs=self._copied(found["outputs"]),
            statistics=self.trace.arrays(found["statistics"]),
        )
        if cotangents is not None:
            result.input_gradients = self._turned(found["input_gradients"])
            result.parameter_gradients = self.trace.arrays(found["parameter_gradients"])
        return result

    def _within(self, call: Call, train: bool) -> RunRecord:
        """Return what a layer gave in the whole network, but for its inputs' gradients."""
        run = self.trace.runs[self.key(train)]
        calls = [c for c in run["calls"] if c["layer"].partition("#")[0] == call.module]
        (mine,) = (c for c in calls if c["layer"] == call.layer)
        result, prefix = RunRecord(outputs=self._copied(mine["outputs"])), f"{call.module}."

        def inside(names: Mapping[str, str]) -> Arrays:
            """Return the layer's own tensors; of several calls, only the sum would be known."""
            found = {n: a for n, a in names.items() if n.startswith(prefix) and len(calls) == 1}
            return {n.removeprefix(prefix): self.trace.array(a) for n, a in found.items()}

        # Not those that a checkpoint around the layer updated a second time.
        result.statistics = inside({**run["statistics"], **run["first_statistics"]})
        if any(c is not None for c in mine["cotangents"]):
            result.parameter_gradients = inside(run["parameter_gradients"])
        return result


def array_names(trace: TraceFile, tree: Any) -> list[str]:
    """Return the names of the arrays in a tree, mappings by sorted key."""
    nest = trace.tree(tree, Stored)
    return [leaf.name for leaf in leaves(nest) if isinstance(leaf, Stored)]


class RecordedTraining(TorchTraining):
    """Steps of training that were recorded; see `TorchTraining`, whose place it takes.

    Args:
        side: The side that made them.
        kind: `update`, `decay` or `trajectory`.

    Raises:
        NotRecordedError: They were not recorded.
    """

    def __init__(self, side: RecordedSide, kind: str) -> None:
        self.trace = side.trace
        key = (kind, side.dtype, side.disturbance)
        if key not in self.trace.training:
            shown = " ".join(str(part) for part in key if part is not None)
            raise NotRecordedError(f"{self.trace.path} holds no steps of {shown}")
        self.found = self.trace.training[key]
        self.count = 0

    def gradients(self, *_: Any) -> tuple[Arrays, float]:
        """Return the next step's loss; its gradients have been used."""
        loss = self._step()["loss"]
        return {}, np.nan if loss is None else float(self.trace.array(loss))

    @property
    def lacks_loss(self) -> bool:
        """Return whether the next step's loss was not recorded."""
        return self._step()["loss"] is None

    def update(self, gradients: Any) -> None:
        """Go to the state after the next step."""
        del gradients
        self._step()
        self.count += 1

    def state(self) -> Arrays:
        """A copy of every parameter and buffer, by name."""
        steps = self.found["steps"]
        return self.trace.arrays(
            steps[self.count - 1]["state"] if self.count else self.found["before"]
        )

    def _step(self) -> dict[str, Any]:
        if self.count == len(self.found["steps"]):
            raise NotRecordedError(f"{self.trace.path} holds {self.count} steps, expected more")
        return dict(self.found["steps"][self.count])

    @property
    def rate(self) -> float:
        """Return the learning rate at the next step; NaN where it was not recorded."""
        steps = self.found["steps"]
        rate = steps[min(self.count, len(steps) - 1)].get("rate") if steps else None
        return np.nan if rate is None else float(rate)

    @property
    def momentum(self) -> float:
        """Return 0: an optimizer's settings are not recorded."""
        return 0.0


def has_steps(side: RecordedSide, kind: str) -> bool:
    """Return whether steps of a kind were recorded."""
    return (kind, side.dtype, side.disturbance) in side.trace.training
