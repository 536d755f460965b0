"""L4: the optimizer's steps, and the learning rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from parity.capture import jax_training, torch_training
from parity.capture.jax_training import JaxTraining
from parity.capture.records import NETWORK, Arrays
from parity.capture.run import FLOAT64, Run, Side
from parity.capture.spill import SpillFile
from parity.ladder import tolerances
from parity.ladder.keys import Flat, Key, by_layer, full_name
from parity.ladder.port_rounding import Differences, compared
from parity.ladder.recorded import (
    fed_gradients,
    has_decay,
    has_numerics,
    is_narrow,
    rates_of,
    training_of,
)
from parity.ladder.rung import Absence, Rung
from parity.ladder.runs import DISTURBED, LARGE, PORT64
from parity.ladder.tolerances import STRUCTURE_UPDATE, Difference, Measurement, difference
from parity.report.quantity import Kind, Quantity
from parity.report.report import Check
from parity.spec import draw
from parity.trace.side import RecordedSide

STEPS = 4  # the first that differ by more than the moments' beginning, and one more


@dataclasses.dataclass(frozen=True)
class FedGradients:
    """The rounded gradients for both optimizers, in the reference's names and layout.

    Attributes:
        gradients: Each step's gradients by the reference's names; absent where it has none.
        zeros: Zero gradients of the same parameters.
    """

    gradients: Sequence[Arrays]
    zeros: Arrays

    def disturbed(self, precision: str) -> FedGradients:
        """Return the gradients disturbed at random by as much as rounding would."""
        rng = draw.generator(0, "rounding/gradients")
        disturb = tolerances.ROUNDING[precision]
        steps = (tolerances.disturb(g, disturb, rng) for g in self.gradients)
        spilled = isinstance(self.gradients, SpilledSteps)
        return FedGradients(SpilledSteps(steps) if spilled else list(steps), self.zeros)


class SpilledSteps(Sequence[Arrays]):
    """Arrays of several steps, by name, that are kept in a file and read a step at a time."""

    def __init__(self, steps: Iterable[Arrays]) -> None:
        keep = SpillFile()
        self.steps = [{name: keep(a) for name, a in arrays.items()} for arrays in steps]

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: Any) -> Any:
        return {name: np.asarray(array) for name, array in self.steps[step].items()}


class Update(Rung):
    """Rung L4: both optimizers are fed the reference's gradients, and their steps are compared.

    A weight is a hundred or a thousand times larger than a step, and hides as much of its error.
    The first step is fed the gradient; those after it the gradient times numbers drawn for each
    element, so that no moment stays what it was. From the beginning again, one step is fed
    gradients of 0, which leaves nothing but the decay of weights.

    Attributes:
        weights: Initial weights, in the port's names and layout.
        rates: Both sides' learning rates, if they were compared.
        fed: The gradients they are fed.
        steps: The reference's and the port's in float64.
    """

    weights: Arrays
    rates: tuple[np.ndarray, np.ndarray] | None = None
    fed: FedGradients
    steps: tuple[Flat, Flat]

    def absent(self) -> Absence | None:
        return self._without_steps("L4", "update")

    def climb(self) -> list[Check]:
        state = self.runs.names.in_port(self.runs.reference64.state(), None, False)
        self.weights = self._compared(state)
        self.fed = fed = self._fed()
        working = self.runs.precision
        ported = Run(Side.PORT, working)
        # A large network's runs are made one after the other, and compared before the next.
        concurrent = () if self._is_large() else (PORT64, ported)
        jobs = {run: self.runs.pool.submit(self._port, run, fed) for run in concurrent}
        oracle = self._reference(Run(Side.REFERENCE), fed)

        def steps(run: Run) -> Flat:
            if run in jobs:
                return jobs.pop(run).result()
            return (self._port if run.ported else self._reference)(run, fed)

        if self.runs.coarse:
            moved = self._port(PORT64, fed.disturbed(working))
            exact, rounded = steps(PORT64), steps(ported)
            return self._judged(oracle, compared(working, oracle, exact, rounded, moved))
        self.steps = oracle, steps(PORT64)
        found = {PORT64: _differences(PORT64, self.steps[1], oracle)}
        known = has_numerics(self.runs, "update")
        for run in (Run(Side.REFERENCE, working), DISTURBED[0], ported) if known else ():
            found[run] = _differences(run, steps(run), oracle)
        return self._judged(oracle, found)

    def _is_large(self) -> bool:
        """Return whether steps of all that is trained are kept in a file, not in memory."""
        return 8 * sum(a.size for a in self.weights.values()) > LARGE

    def _judged(self, oracle: Flat, found: Differences) -> list[Check]:
        """Judge the steps, and the rates."""
        port = self.runs.port
        measured = [self._step(key, oracle, found) for key in oracle]
        if port.schedules is not None and rates_of(self.runs.reference64, 1).size:
            measured.insert(0, self._rates(*port.schedules))
        return self._judge("L4", measured)

    def agrees(self, make: torch_training.MakeOptimizer, schedule: Any = None) -> bool:
        """Return whether another optimizer of the reference makes the port's steps, in float64.

        Args:
            make: Returns the optimizer for a module.
            schedule: The learning-rate schedule; the reference's if not given.
        """
        return self._agree(self._made(make, schedule), self.steps[1])

    def gives(self, make: torch_training.MakeOptimizer) -> bool:
        """Return whether another optimizer makes the reference's steps, in float64."""
        return self._agree(self._made(make, None), self.steps[0])

    @property
    def rates_differ(self) -> bool:
        """Return whether learning rates were compared and are not the same."""
        if self.rates is None:
            return False
        return not np.allclose(self.rates[1], self.rates[0], rtol=STRUCTURE_UPDATE, atol=0)

    def _made(self, make: torch_training.MakeOptimizer, schedule: Any) -> Flat:
        schedule = self._schedule() if schedule is None else schedule

        def training(kind: str) -> Any:
            return training_of(self.runs.reference64, kind, make, schedule)

        return self._steps(training, self.fed, False)

    def _agree(self, oracle: Flat, steps: Flat) -> bool:
        found = {PORT64: _differences(PORT64, steps, oracle)}
        measured = [self._step(key, oracle, found) for key in oracle]
        return all(check.ok for check in self._judge("L4", measured))

    def _fed(self) -> FedGradients:
        """Return the gradients of all steps."""
        if isinstance(self.runs.reference64, RecordedSide):
            return FedGradients(*fed_gradients(self.runs.reference64))
        first = self.runs.oracle(True).parameter_gradients
        precision = self.runs.precision

        def fed(step: int) -> Arrays:
            rng = draw.generator(0, "update", step)
            shaken = {n: g * rng.standard_normal(g.shape) if step else g for n, g in first.items()}
            return {n: tolerances.round_to(g, precision) for n, g in shaken.items()}

        steps = map(fed, range(STEPS))
        gradients = SpilledSteps(steps) if self._is_large() else list(steps)
        # Zeros that take no memory, whatever their shape.
        zeros = {n: np.broadcast_to(np.zeros((), g.dtype), g.shape) for n, g in first.items()}
        return FedGradients(gradients, zeros)

    def _reference(self, run: Run, fed: FedGradients) -> Flat:
        """Return the steps of the reference: in one precision, or disturbed."""
        runs, disturb = self.runs, run.disturbance is not None
        side = runs.reference64 if run.precision == FLOAT64 else runs.reference_working
        if disturb:
            rng = draw.generator(0, "rounding/update")
            side = side.disturbed(tolerances.ROUNDING[runs.precision], rng)
            fed = fed.disturbed(runs.precision)

        def training(kind: str) -> Any:
            return training_of(side, kind, self.optimizers[0], self._schedule(), disturb)

        return self._steps(training, fed, False)

    def _port(self, run: Run, fed: FedGradients) -> Flat:
        side = self.runs.port64 if run == PORT64 else self.runs.port_working

        def training(_: str) -> JaxTraining:
            return JaxTraining(side, self.optimizers[1])

        return self._steps(training, fed, True)

    @property
    def optimizers(self) -> tuple[Any, Any]:
        """What makes the reference's optimizer, and the port's."""
        found = self.runs.port.optimizers
        assert found is not None  # the rung would be absent
        return found

    def _schedule(self) -> Any:
        return self.runs.port.schedules[0] if self.runs.port.schedules else None

    def _steps(self, training: Any, fed: FedGradients, ported: bool) -> Flat:
        """Return one side's steps, by the port's names and layers."""
        found: Flat = {}
        keep: Callable[[np.ndarray], Any] = SpillFile() if self._is_large() else lambda a: a
        fed_in_turn: list[tuple[Kind, Sequence[Arrays]]] = [(Kind.STEP, fed.gradients)]
        if has_decay(self.runs.reference64):
            fed_in_turn.append((Kind.DECAY_STEP, [fed.zeros]))
        for kind, gradients in fed_in_turn:
            side = training("update" if kind is Kind.STEP else "decay")
            before = self._parameters(side, ported)
            for i, g in enumerate(gradients, 1):
                side.update(self.runs.names.in_port(g, None, False) if ported else g)
                after = self._parameters(side, ported)
                with np.errstate(invalid="ignore"):  # infinities, where a precision overflows
                    steps = {name: keep(array - before[name]) for name, array in after.items()}
                found |= by_layer(Quantity(kind, step=i if kind is Kind.STEP else 0), steps)
                before = after
        return found

    def _parameters(self, training: Any, ported: bool) -> Arrays:
        """Return the parameters that both sides train, in the port's names and layout."""
        arrays = self.runs.names.in_port(training.state(), None, ported)
        return self._compared(arrays)

    def _compared(self, arrays: Arrays) -> Arrays:
        """Return those of the port's arrays whose steps are compared."""
        trained = self.runs.names.trained
        return self.runs.bounded.only({n: a for n, a in arrays.items() if n in trained})

    def _step(self, key: Key, oracle: Flat, found: Differences) -> Measurement:
        differences = {run: each[key] for run, each in found.items()}
        shared_group = (key.quantity.kind, key.quantity.step)
        limit = STRUCTURE_UPDATE + self._rounding(key, tolerances.norm(oracle[key]))
        measured = self._measure_one(
            key, oracle[key], differences, limit=limit, shared_group=shared_group
        )
        if is_narrow(self.runs.port):  # then how far the reference's own rounding goes is not seen
            weight = self.weights[full_name(key.layer, key.quantity.path)]
            rounded = tolerances.ROUNDING[self.runs.precision] / 2 * tolerances.norm(weight)
            measured = dataclasses.replace(
                measured, reference_distance=max(measured.reference_distance, rounded)
            )
        return measured

    def _rounding(self, key: Key, norm: float) -> float:
        """Return the relative rounding error of a float64 step, a difference of two weights."""
        weight = self.weights[full_name(key.layer, key.quantity.path)]
        return 4 * 2.0**-53 * tolerances.norm(weight) / norm if norm else 0.0

    def _rates(self, theirs: Any, ours: Any, count: int) -> Measurement:
        """Return the learning rate at every step; the largest relative difference counts."""
        if isinstance(self.runs.reference64, RecordedSide):
            reference = rates_of(self.runs.reference64, count)
        else:
            make = self.optimizers[0]
            reference = torch_training.rates(self.runs.port.reference, make, theirs, count)
        port = jax_training.rates(ours, count)
        self.rates = reference, port
        found = difference(port, reference)
        if np.isfinite(found.distance):
            found = tolerances.furthest(port, reference)
        key = Key(NETWORK, Quantity(Kind.LEARNING_RATE))
        limit = STRUCTURE_UPDATE
        if is_narrow(self.runs.port):  # such rates are computed in the working precision, too
            limit = tolerances.floor(self.runs.precision)
        measured = self._measure_one(key, reference, {PORT64: found}, limit=limit)
        return dataclasses.replace(measured, norm=1.0, elements=count + tolerances.FEW)


def _differences(run: Run, flat: Flat, oracle: Flat) -> dict[Key, Difference]:
    """Return how far a run's steps are from the oracle's."""
    return {key: difference(flat.get(key), array, run.precision) for key, array in oracle.items()}
