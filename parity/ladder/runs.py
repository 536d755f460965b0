"""The runs that a comparison is made of: both sides in float64 and in the working precision.

The reference in float64 is the oracle. Every other run of the whole network is compared with it as
soon as it is there and then forgotten, so that two runs' activations are held at a time, not five.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from parity.capture.jax_models import Function
from parity.capture.jax_side import JaxSide
from parity.capture.records import (
    NETWORK,
    Call,
    ForwardError,
    Loss,
    RunRecord,
    is_array,
)
from parity.capture.run import FLOAT64, Run, Side
from parity.capture.spill import SpillFile, nowhere, release
from parity.capture.torch_side import TorchSide
from parity.ladder import port_rounding, reach, tolerances
from parity.ladder.block_ends import BlockEnds
from parity.ladder.bounded import Bounded, names_of
from parity.ladder.bounds import EVERYTHING, Bounds
from parity.ladder.correspondence import Correspondence
from parity.ladder.drawing import settled
from parity.ladder.drift import Drift
from parity.ladder.flattening import flattened
from parity.ladder.keys import Flat, Key, against
from parity.ladder.layer_alone import Layers
from parity.ladder.pairing import (
    Aligner,
    Alignment,
    Pair,
    by_names,
    containers,
    is_over_places,
)
from parity.ladder.port import NAMES, Port
from parity.ladder.projection import Projection, projections
from parity.ladder.recorded import (
    coarse,
    filled,
    is_narrow,
    numerics_of,
    sides,
)
from parity.ladder.renaming import Renaming, without
from parity.ladder.returned import Whole
from parity.ladder.tolerances import Difference, difference, spread_difference
from parity.ladder.weights import assign
from parity.report.quantity import Kind, Mode, Quantity, Scope
from parity.spec import draw
from parity.trace.side import RecordedSide

DISTURBANCES = 1  # how often a whole network's input is disturbed; the largest effect counts
# Bytes of one run's activations in float64 above which runs are made one after the other, and the
# activations wait in a file or are compared as they are made.
LARGE = 2**28

T = TypeVar("T")

PORT64 = Run(Side.PORT)  # the run that judges structure
DISTURBED = tuple(Run(Side.REFERENCE, FLOAT64, i) for i in range(DISTURBANCES))


class Runs:
    """Both sides of a port, filled, aligned, and run on demand.

    Args:
        port: The port to compare with its reference.
        precision: The working precision.
        pool: Runs compilations concurrently; XLA compiles outside Python's lock.
        bounds: Which layers are compared.

    Raises:
        InputError: The port cannot be compared, see `Port`; or nothing is within the bounds.
    """

    def __init__(
        self,
        port: Port,
        precision: str,
        pool: ThreadPoolExecutor,
        bounds: Bounds = EVERYTHING,
    ) -> None:
        self.port = port = filled(port)
        self.precision = precision
        self.pool = pool
        self.whole = Whole(self)
        self._make_sides()
        self._assign()
        self.tensors = Correspondence(self.assignment, self.reference64)
        self.names = Renaming(self.assignment, self.tensors, self.reference64, self.port64)
        self.layers = Layers(self)
        self.projections = self._projections()
        self.inputs = {train: port.arrays(train) for train in self.modes}
        self.strict = port.layers == NAMES
        self.lock = threading.RLock()
        self.oracles: dict[bool, RunRecord] = {}
        self.results: dict[tuple[Run, bool], dict[Key, Difference]] = {}
        self.jobs: dict[tuple[Run, bool], Future[dict[Key, Difference]]] = {}
        self.drift = Drift(self)
        self.coarse = coarse(self.reference64)
        self.rounded: dict[bool, port_rounding.Differences] = {}
        self.failed = self._try_port()
        bounds.refuse_unknown(names_of(self) if bounds.layers else ())
        self.large = not self.failed and self._bytes() > LARGE
        self.port64.optimize = self.port_working.optimize = self.large
        self.bounded = Bounded(self, Alignment({}), EVERYTHING)
        self.reach = reach.of_both(self)
        self.inputs[False] = self.reach.inputs
        self._try_reference()
        self._bound(self._align(), bounds)

    def _make_sides(self) -> None:
        """Make both networks in float64 and in the working precision, and name their runs."""
        port, precision = self.port, self.precision
        ours, theirs = (
            {train: port.signatures(train)[side] for train in self.modes} for side in (0, 1)
        )
        self.reference64, self.reference_working = sides(port, precision, ours)
        self.port64, self.port_working = (
            JaxSide(port.port, dtype, port.params, port.modes, signatures=theirs)
            for dtype in (FLOAT64, precision)
        )
        for side in (self.reference64, self.reference_working):
            side.input_axes = port.input_axes(port.train)
        # The runs of a whole network other than the oracle.
        working = (Run(Side.REFERENCE, precision), Run(Side.PORT, precision))
        self.compared = (PORT64, *working, *DISTURBED)

    def _assign(self) -> None:
        """Find where each tensor of the port comes from, and fill the port with it."""
        port = self.port
        self.assignment = assign(
            port.weights,
            self.reference64.state(),
            self.port64.state(),
            port.filled,
            self.reference64.unsaved(),
            self._uses() if port.weights is None else ((), ()),
        )
        if self.assignment.arrays is not None:
            self.port64.fill(self.assignment.arrays)
            # Constants are judged in the precision in which the port makes them.
            self.port_working.fill(self.assignment.arrays | self.assignment.constants)

    def _try_port(self) -> ForwardError | None:
        """Trace the port in every mode; return what it raises."""
        try:
            for train in self.modes:
                self.port64.trace(self.inputs[train], train)
        except ForwardError as error:
            return error
        return None

    def _uses(self) -> tuple[list[str], list[str]]:
        """Return the layers of both sides in the order in which they return; none if one raises."""
        train = self.port.train
        inputs = self.port.arrays(train)
        try:
            ours = self.reference64.run(inputs, train, keep=nowhere).calls
            theirs = self.port64.trace(inputs, train)
        except ForwardError:  # it is explained where it is run next
            return [], []
        calls = ([c.module for c in side.values()] for side in (ours, theirs))
        ours_used, theirs_used = (list(dict.fromkeys(each)) for each in calls)
        return ours_used, theirs_used

    def _bound(self, whole: Alignment, bounds: Bounds) -> None:
        """Leave out what is not within the bounds, now that layers are paired."""
        calls = self.oracle(False).calls
        self.shapes = {n: tuple(c.outputs[0].shape) for n, c in calls.items() if c.outputs}
        self.bounded = bounded = Bounded(self, whole, bounds)
        self.alignment = bounded.alignment
        self.by_port = self.alignment.of_port()
        for side in (self.reference64, self.reference_working):
            side.kept = bounded.of_reference
        for port in (self.port64, self.port_working):
            port.kept = bounded.of_port
        self.oracles[False] = bounded.recorded(self.oracles[False])

    def _try_reference(self) -> None:
        """Run the reference, and explain what it refuses.

        Raises:
            InputError: It raised.
        """
        try:
            self.oracle(False)
        except ForwardError as error:
            if isinstance(self.port.inputs, Mapping):
                way = "a mapping is one argument; arguments by name are Port(keywords=...)"
                error.args = (f"{error} ({way})",)
            raise

    def _projections(self) -> list[Projection]:
        """Return what is compared along directions, for it cannot be element by element."""
        made = sorted(self.tensors.opaque & self.port64.parameters())
        if not made or not callable(self.port.weights):
            return []
        return list(projections(self.port.weights, self.reference64.state(), made))

    def start(self, modes: Sequence[bool]) -> None:
        """Begin the port's runs in the background, unless they are too large to be held at once."""
        if self.failed or self.large or self.coarse:
            return
        for train in set(map(self.mode, modes)):
            for run in filter(lambda run: run.ported, self.compared):
                self.jobs[run, train] = self.pool.submit(self._compare_run, run, train)

    @property
    def modes(self) -> tuple[bool, ...]:
        """Return the modes that are run, train mode as True."""
        return (False, True) if self.port.train else (False,)

    def mode(self, train: bool) -> bool:
        """Return the mode that is run in the place of this one: an inference check never trains."""
        return train and self.port.train

    def oracle(self, train: bool) -> RunRecord:
        """Return the reference in float64."""
        train = self.mode(train)
        with self.lock:
            if self.port.output_layouts:
                self.whole.outputs(train)
            if train not in self.oracles:
                sides = (self.reference64, self.reference_working)
                found = settled(sides, train, lambda: self.run(self.reference64, train))
                self.oracles[train] = self.bounded.recorded(found)
            return self.oracles[train]

    def flat(self, train: bool) -> Flat:
        """Everything the oracle gave, in the port's names and layout."""
        return flattened(self, self.oracle(train), self.mode(train), ported=False)

    def port_flat(self, side: JaxSide, inputs: tuple, train: bool) -> Flat:
        """Run a side of the port, and return everything that it gave."""
        return flattened(self, self.run(side, train, inputs), train, ported=True)

    def side(self, run: Run) -> TorchSide | JaxSide:
        """Return the network that runs, undisturbed; of a recording, what was disturbed."""
        exact = run.precision == FLOAT64
        if run.ported:
            return self.port64 if exact else self.port_working
        side = self.reference64 if exact else self.reference_working
        if isinstance(side, RecordedSide) and run.disturbance is not None:
            return side.disturbed()
        return side

    def differences(self, train: bool) -> dict[Run, dict[Key, Difference]]:
        """Return how far every other run is from the oracle."""
        train = self.mode(train)
        if self.coarse:
            if train not in self.rounded:
                self.rounded[train] = port_rounding.differences(self, train)
            return self.rounded[train]
        compared = self.compared if numerics_of(self, train) else (PORT64,)
        for run in compared:
            if (run, train) not in self.results:
                job = self.jobs.pop((run, train), None)
                self.results[run, train] = job.result() if job else self._compare_run(run, train)
        return {run: self.results[run, train] for run in compared}

    def is_narrow(self, key: Key) -> bool:
        """Return whether a quantity is computed in a narrower type in float64, too.

        In the whole network anything may depend on such a layer; alone, each is judged by its own.
        Everything is, where the reference is known in a narrower type only.
        """
        if self.coarse or is_narrow(self.port):
            return True
        kept = self.port64.narrow("kept")
        if key.quantity.scope is not Scope.LAYER:
            return bool(kept)
        layer = key.layer.partition("#")[0]
        return any(name == layer or name.startswith(f"{layer}.") for name in kept)

    def pair(self, call: Call) -> Pair | None:
        """Return the port's call paired with a call of the reference; None if there is none."""
        return self.alignment.pairs.get(call.layer)

    def leaf(self, call: Call) -> bool:
        """Return whether it is an innermost layer of the reference, without own random draws."""
        return (
            not self.reference64.has_parts(call.module)
            and call.module not in self.reference64.silenced
        )

    def _align(self) -> Alignment:
        reference = self.oracle(False).calls
        if self.strict or self.failed:
            seen = [n for n, c in reference.items() if self.port64.has(c.module)]
            return by_names(reference, seen)
        result = RunRecord()
        if self.port64.layers:
            result = self.run(self.port64, False)
            self.whole.refuse_layouts(result, False)
        found = result.calls
        port = {name: found[name] for name in self.port64.traced[False] if name in found}
        parts = (containers(reference), containers(port))
        side = self.reference64
        last = {n for n, c in reference.items() if side.channels_last(c.module)}
        first = {n for n, c in reference.items() if is_over_places(side.kind(c.module))}
        quiet = set(self.reference64.silenced)
        ours = {n: c for n, c in reference.items() if c.module not in quiet}
        ends = BlockEnds(self, reference, result, parts[0])
        aligner = Aligner(ours, port, parts, self.port.layout, last, first, ends)
        given = None if isinstance(self.port.layers, str) else self.port.layers
        return aligner.align(given, without(self.assignment.map, self.assignment.fixed))

    def _compare_run(self, run: Run, train: bool) -> dict[Key, Difference]:
        """Make one run of the whole network and compare it with the oracle."""
        oracle = self.flat(train)
        found: dict[Key, Difference] = {}

        def compared(name: str, *outputs: Any) -> None:
            """Compare a layer's outputs as the port makes them."""
            if name not in self.by_port and not (self.strict and self.bounded.compares(name)):
                return
            for i, output in enumerate(outputs):
                key = Key(name, Quantity(Kind.OUTPUT, index=i, mode=Mode.of(train)))
                found[key] = spread_difference(np.asarray(output), oracle.get(key), run.precision)

        if run.disturbance is not None:
            rng = draw.generator(0, "stir", run.disturbance)  # the name is part of the seed
            scale = tolerances.input_disturbance(self.precision)
            inputs = tolerances.disturb(self.inputs[train], scale, rng)
            result = self.run(self.side(run), train, inputs)
        else:
            result = self.run(self.side(run), train, sink=compared)
        flat = flattened(self, result, train, run.ported)
        known = dict.fromkeys([*oracle, *flat])
        if isinstance(self.side(run), RecordedSide):  # what it lacks says nothing of rounding
            known = {k: None for k in flat if flat[k].size or not oracle.get(k, flat[k]).size}
        for key in known:
            if key not in found:
                reference, array = against(key, oracle, flat), flat.get(key)
                inner = key.layer != NETWORK and key.quantity.kind is Kind.OUTPUT
                if inner and array is not None:
                    found[key] = spread_difference(array, reference, run.precision)
                else:
                    found[key] = difference(array, reference, run.precision)
        return {key: found[key] for key in dict.fromkeys([*oracle, *found]) if key in found}

    def run(
        self,
        side: TorchSide | JaxSide,
        train: bool,
        inputs: tuple | None = None,
        sink: Callable[..., None] | None = None,
        noise: float = 0.0,
    ) -> RunRecord:
        """Run a whole network; of a large one, activations go to a file or to `sink`."""
        inputs = self.inputs[train] if inputs is None else inputs
        large: dict[str, Any] = {"noise": noise} if noise else {}
        if self.large:
            large |= {"sink": sink} if isinstance(side, JaxSide) else {"keep": SpillFile()}
            release()
        if not train:
            return side.run(inputs, train, **large)
        losses, targets = self.loss(self.port.targets)
        return side.run(inputs, train, losses[isinstance(side, JaxSide)], targets, **large)

    def loss(
        self, targets: tuple[np.ndarray, ...]
    ) -> tuple[tuple[Loss, Loss], tuple[np.ndarray, ...]]:
        """Return both sides' losses and targets: these, if the port has its own losses."""
        return (self.port.losses, targets) if self.port.losses is not None else self.whole.probe()

    @property
    def stateless(self) -> bool:
        """Return whether the port is a function, which keeps no statistics."""
        return isinstance(self.port64.model, Function)

    def _bytes(self) -> int:
        """Return the size in bytes of one run's activations in float64."""
        calls = self.port64.traced[self.port.train].values()
        return sum(8 * int(np.prod(o.shape)) for c in calls for o in c.outputs if is_array(o))
