"""Experiments on one layer, or one block of layers, that is wrong alone."""

from __future__ import annotations

from parity.capture.records import NETWORK, Call, ForwardError
from parity.capture.torch_calls import Origin
from parity.capture.torch_operations import ChangedSide, Operation
from parity.diagnosis.experiments.engine import Make, Proofs, allowed, tried
from parity.ladder.flattening import flattened
from parity.ladder.keys import Flat
from parity.ladder.l1_layers import Layers
from parity.ladder.layer_alone import UnlikeError
from parity.ladder.pairing import Pair
from parity.ladder.runs import Runs
from parity.ladder.weights import COUNTER
from parity.report.quantity import Kind
from parity.report.report import Check


class Alone:
    """A layer of both sides, fed alone as on L1, in train and in eval mode.

    Attributes:
        operations: `train` and `eval` -> the reference's operations; absent where it did not run.
    """

    def __init__(self, runs: Runs, layers: Layers, call: Call, pair: Pair) -> None:
        self.runs, self.layers, self.pair = runs, layers, pair
        self.calls: dict[str, Call] = {}
        self.fed: dict[str, tuple] = {}
        self.port: dict[str, Flat] = {}
        self.operations: dict[str, tuple[Operation, ...]] = {}
        for mode, train in (("train", True), ("eval", False)):
            called = runs.oracle(train).calls.get(call.layer)
            if called is not None:
                self._run(mode, called)

    def _run(self, mode: str, call: Call) -> None:
        runs, train = self.runs, mode == "train"
        fed = runs.layers.fed(call, train, rounded=not runs.reference64.has_parts(call.module))
        try:
            port = runs.layers.alone(runs.port64, call, self.pair, train, fed)
        except (ForwardError, UnlikeError):
            fed = (fed[0], None)  # such as another shape, which cannot be pulled back
            try:
                port = runs.layers.alone(runs.port64, call, self.pair, train, fed)
            except (ForwardError, UnlikeError):
                return
        side = ChangedSide.of(runs.reference64, record=True)
        runs.layers.alone(side, call, self.pair, train, fed)
        self.calls[mode], self.fed[mode], self.port[mode] = call, fed, port
        self.operations[mode] = side.operations

    def reference(self, mode: str, make: Make = dict) -> Flat:
        """Return what the reference's layer gives with some operations replaced."""
        side = ChangedSide.of(self.runs.reference64, make)
        return self.runs.layers.alone(
            side, self.calls[mode], self.pair, mode == "train", self.fed[mode]
        )

    def agrees(self, mode: str, make: Make) -> bool:
        """Return whether the changed reference gives all of the port's numbers."""
        if any(c is not None for c in self.fed[mode][1] or ()):
            # First forward alone, which is all that most experiments need.
            outputs = self._forward(mode, make)
            found = {key: self.port[mode][key] for key in outputs if key in self.port[mode]}
            if not self.layers.agree(outputs, found, self.calls[mode].layer):
                return False
        changed = self.reference(mode, make)
        return self.layers.agree(changed, self.port[mode], self.calls[mode].layer)

    def _forward(self, mode: str, make: Make) -> Flat:
        side, fed = ChangedSide.of(self.runs.reference64, make), (self.fed[mode][0], None)
        return self.runs.layers.alone(side, self.calls[mode], self.pair, mode == "train", fed)

    def proofs(self) -> Proofs:
        """Return the changes of the reference that are proved."""
        return tried(self.operations, self.agrees)

    def first(self) -> tuple[Operation, ...]:
        """Return the operations of the first run: of train mode, where that could be made."""
        return next(iter(self.operations.values()), ())

    def shown(self) -> tuple[Operation, ...]:
        """Return the operations that say what the layer computes."""
        return tuple(o for o in self.first() if o.outputs and not is_counter(o))


def is_counter(operation: Operation) -> bool:
    """Return whether an operation only counts batches."""
    value = operation.tensor("input")
    return (
        value is not None
        and value.origin is Origin.STORED
        and value.source.rpartition(".")[2] == COUNTER
    )


class WholeNetwork:
    """Both networks whole, as the only layer that there is.

    Where constants are known in float32 alone, both sides' numbers are as near as these constants
    allow: so little of the fault that no change is taken for another one.
    """

    def __init__(self, runs: Runs, layers: Layers, fault: Check) -> None:
        self.runs, self.layers = runs, layers
        self.near = fault.limit <= allowed(fault)
        self.port: dict[str, Flat] = {}
        self.operations: dict[str, tuple[Operation, ...]] = {}
        for train in runs.modes:
            mode = "train" if train else "eval"
            self.port[mode] = _outer(flattened(runs, runs.run(runs.port64, train), train, True))
            side = ChangedSide.of(runs.reference64, record=True)
            runs.run(side, train)
            self.operations[mode] = side.operations

    def reference(self, mode: str, make: Make = dict) -> Flat:
        """Return what the reference gives with some operations replaced."""
        side, train = ChangedSide.of(self.runs.reference64, make), mode == "train"
        return _outer(flattened(self.runs, self.runs.run(side, train), train, False))

    def agrees(self, mode: str, make: Make) -> bool:
        """Return whether the changed reference gives all of the port's numbers."""
        drift = self.runs.drift(mode == "train") if self.near else None
        return self.layers.agree(self.reference(mode, make), self.port[mode], "", drift)

    def proofs(self) -> Proofs:
        """Return the changes of the reference that are proved."""
        return tried(self.operations, self.agrees)

    def first(self) -> tuple[Operation, ...]:
        """Return the operations of eval mode."""
        return self.operations["eval"]

    def shown(self) -> tuple[Operation, ...]:
        """Return the operations that say what the network computes."""
        return tuple(o for o in self.operations["eval"] if o.outputs and not is_counter(o))


def _outer(flat: Flat) -> Flat:
    """A network's own numbers: of its layers, only gradients of parameters and statistics."""
    return {
        key: array
        for key, array in flat.items()
        if key.layer == NETWORK or key.quantity.kind is not Kind.OUTPUT
    }
