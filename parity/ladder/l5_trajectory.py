"""L5: many steps of training, in float64."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from parity.capture.jax_training import JaxTraining
from parity.capture.records import NETWORK, Arrays
from parity.capture.torch_side import TorchSide
from parity.capture.torch_training import MakeOptimizer, TorchTraining
from parity.ladder import tolerances
from parity.ladder.keys import Flat, Key, by_layer
from parity.ladder.noise import CHAOTIC, says_something, tells_weights
from parity.ladder.recorded import has_steps, is_narrow, loss_response, training_of
from parity.ladder.renaming import without
from parity.ladder.rung import Absence, Rung
from parity.ladder.runs import PORT64, Runs
from parity.ladder.tolerances import STRUCTURE_TRAJECTORY, Measurement, difference
from parity.report.quantity import Kind, Quantity
from parity.report.report import Check, Omission
from parity.spec import draw
from parity.trace.side import RecordedSide, RecordedTraining

ULP = 2.0**-52  # of 1, in float64

Steps = TorchTraining | JaxTraining


class Trajectory(Rung):
    """Rung L5: both sides train independently from equal weights on equal batches.

    Every parameter and statistic is compared after every step. What is reported is the first step
    after which one differs, the furthest first; or the last step.

    Some networks diverge from themselves: what rounding leaves of a gradient that is zero, Adam
    makes as large as any. So where one differs, the reference is trained once more from weights
    changed by an ulp, and how far that moves it is allowed for. Where 16 times that is as large as
    the values of every weight, no later step can be judged either, since it begins elsewhere. The
    last step that says something is then reported, and that those after it were not compared.

    Attributes:
        rates: The reference's learning rate at each step that was made, and at the next.
        momentum: The reference's momentum.
        ported: The port's loss, parameters and statistics after the last step.
    """

    rates: list[float]
    momentum: float
    ported: Flat

    def __init__(self, runs: Runs, notes: list[str]) -> None:
        super().__init__(runs, notes)
        self.left_out: list[Omission] = []  # steps that say nothing

    def absent(self) -> Absence | None:
        return self._without_steps("L5", "trajectory")

    def climb(self) -> list[Check]:
        optimizers = self.runs.port.optimizers
        assert optimizers is not None  # the rung would be absent
        self.runs.oracle(True)  # finds and switches off what draws, if no rung before has
        reference, port = (
            self._reference(self.runs.reference64),
            JaxTraining(self.runs.port64, optimizers[1]),
        )
        self.rates, self.momentum = [reference.rate], reference.momentum
        disturbed, checks = None, []
        failing: tuple[int, list[Check]] = 0, []
        trained = self.runs.port64.parameters()
        for step in range(self.runs.port.steps):
            oracle, ported = self._step(reference, step), self._step(port, step)
            self.ported = ported
            self.rates.append(reference.rate)
            again = self._step(disturbed, step) if disturbed else None
            checks = self._compared(oracle, ported, again)
            if disturbed is None and any(not c.ok for c in checks):
                disturbed = self._disturbed()
                if disturbed is None:
                    return sorted(checks, key=furthest_first)
                for made in range(step + 1):
                    again = self._step(disturbed, made)
                checks = self._compared(oracle, ported, again)
            if not tells_weights(checks, trained):
                break  # whatever comes after it begins elsewhere
            if any(not c.ok for c in checks):
                return sorted(checks, key=furthest_first)
            if says_something(checks, trained):
                failing = step, checks
        return self._latest(failing, checks)

    def _latest(self, failing: tuple[int, list[Check]], checks: list[Check]) -> list[Check]:
        """Return the checks of the last step that says something, and note those after it.

        Args:
            failing: That step, counted from 0, and its checks; none if there is no such step.
            checks: Those of the last step.
        """
        step, latest = failing
        if not latest:
            return checks
        if step + 1 < self.runs.port.steps:
            what = Quantity(Kind.STATE, step=step + 2)
            reason = CHAOTIC.format(first=step + 2, last=self.runs.port.steps)
            self.left_out.append(Omission("L5", NETWORK, NETWORK, what, reason))
        return latest

    def agrees(self, make: MakeOptimizer) -> bool:
        """Return whether the reference, with another optimizer, goes the port's way in float64."""
        schedules = self.runs.port.schedules
        training = TorchTraining(self.runs.reference64, make, schedules[0] if schedules else None)
        found: Flat = {}
        for step in range(len(self.rates) - 1):
            found = self._step(training, step)
        return all(check.ok for check in self._compared(found, self.ported, None))

    def _reference(self, side: TorchSide) -> TorchTraining:
        optimizers, schedules = self.runs.port.optimizers, self.runs.port.schedules
        assert optimizers is not None
        schedule = schedules[0] if schedules else None
        return training_of(side, "trajectory", optimizers[0], schedule)

    def _disturbed(self) -> TorchTraining | None:
        """Return the reference from weights changed by an ulp.

        Not from other inputs: flat areas would not be flat any more, whose maxima are a tie.
        """
        side = self.runs.reference64.disturbed(ULP, draw.generator(0, "ulp"))
        if isinstance(side, RecordedSide) and not has_steps(side, "trajectory"):
            return None
        return self._reference(side)

    def _state(self, training: Steps) -> Arrays:
        """Parameters and statistics in the port's names and layout."""
        ported, names = isinstance(training, JaxTraining), self.runs.names
        found = self.runs.bounded.only(names.in_port(training.state(), None, ported))
        if not ported or not self.runs.stateless:
            return found
        # A function's statistics are among its parameters, where they stay as they were.
        return without(found, names.in_port(self.runs.oracle(True).statistics, None, False))

    def _step(self, training: Steps, step: int) -> Flat:
        """Make one training step, and return the state after it."""
        inputs, targets = self.runs.port.batch(step)
        losses, targets = self.runs.loss(targets)
        loss = losses[isinstance(training, JaxTraining)]
        gradients, value = training.gradients(inputs, loss, targets)
        lacking = isinstance(training, RecordedTraining) and training.lacks_loss
        training.update(gradients)
        return _flat(self._state(training), None if lacking else value, step + 1)

    def _compared(self, oracle: Flat, port: Flat, again: Flat | None) -> list[Check]:
        keys = [key for key in oracle if key in port or not self.runs.stateless]
        measured = [self._quantity(key, oracle[key], port.get(key), again) for key in keys]
        return self._judge("L5", measured)

    def _quantity(
        self, key: Key, oracle: np.ndarray, port: np.ndarray | None, again: Flat | None
    ) -> Measurement:
        differences, limit = {PORT64: difference(port, oracle)}, STRUCTURE_TRAJECTORY
        if is_narrow(self.runs.port):  # and each step rounded what it stored once more
            precision, steps = self.runs.precision, key.quantity.step or 1
            limit = tolerances.floor(precision) + steps * tolerances.ROUNDING[precision]
        measured = self._measure_one(key, oracle, differences, limit=limit)
        drift = difference(again[key], oracle).distance if again and key in again else 0.0
        if again is not None and key.quantity.kind is Kind.LOSS and is_narrow(self.runs.port):
            drift = max(drift, loss_response(self.runs.port.reference))
        return dataclasses.replace(measured, drift=drift if math.isfinite(drift) else 0.0)


def _flat(state: dict[str, np.ndarray], loss: float | None, steps: int) -> Flat:
    """Return the loss, if it is known, and the state after this many steps, by key."""
    key = Key(NETWORK, Quantity(Kind.LOSS, step=steps))
    known = {} if loss is None else {key: np.asarray(loss, np.float64)}
    return known | by_layer(Quantity(Kind.STATE, step=steps), state)


def furthest_first(check: Check) -> float:
    """Return a sort key for checks, by falling error; NaN comes first."""
    return -math.inf if math.isnan(check.error) else -check.error
