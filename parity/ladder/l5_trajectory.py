"""L5: many steps of training, in float64."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from parity.capture.jax_training import JaxTraining
from parity.capture.records import NETWORK, Arrays
from parity.capture.torch_side import TorchSide
from parity.capture.torch_training import TorchTraining
from parity.ladder.evidence import Divergence
from parity.ladder.keys import Flat, Key, by_layer, full_name
from parity.ladder.rung import Rung
from parity.ladder.runs import PORT64
from parity.ladder.tolerances import STRUCTURE_TRAJECTORY, Measurement, difference
from parity.report.quantity import Kind, Quantity
from parity.report.report import Check
from parity.spec import draw

ULP = 2.0**-52  # of 1, in float64


class Trajectory(Rung):
    """Rung L5: both sides train independently from equal weights on equal batches.

    Every parameter and statistic is compared after every step. What is reported is the first step
    after which one differs, the furthest first; or the last step.

    Some networks diverge from themselves: what rounding leaves of a gradient that is zero, Adam
    makes as large as any. So where one differs, the reference is trained once more from weights
    changed by an ulp, and how far that moves it is allowed for.

    Attributes:
        rates: The reference's learning rate at each step that was made, and at the next.
        momentum: The reference's momentum.
        last: Either side's parameters and statistics before the last step and after it, in the
            port's names and layout.
    """

    rates: list[float]
    momentum: float
    last: tuple[tuple[Arrays, Arrays], tuple[Arrays, Arrays]]

    def absent(self) -> str:
        return self._untrained()

    def climb(self) -> list[Check]:
        optimizers = self.runs.port.optimizers
        assert optimizers is not None  # the rung would be absent
        reference, port = (
            self._reference(self.runs.reference64),
            JaxTraining(self.runs.port64, optimizers[1]),
        )
        self.rates, self.momentum = [reference.rate], reference.momentum
        disturbed, checks = None, []
        states = self._state(reference), self._state(port)
        for step in range(self.runs.port.steps):
            oracle, ported = self._step(reference, step), self._step(port, step)
            after = self._state(reference), self._state(port)
            self.last = (states[0], after[0]), (states[1], after[1])
            self.rates.append(reference.rate)
            states = after
            again = self._step(disturbed, step) if disturbed else None
            checks = self._compared(oracle, ported, again)
            if disturbed is None and any(not c.ok for c in checks):
                disturbed = self._disturbed()
                for before in range(step + 1):
                    again = self._step(disturbed, before)
                checks = self._compared(oracle, ported, again)
            if any(not c.ok for c in checks):
                return sorted(checks, key=furthest_first)
        return checks

    def divergence(self, fault: Check) -> Divergence:
        """Return how the trajectories diverge, for the parameter that a check names."""
        name = full_name(fault.layer, fault.quantity.path)
        steps = [
            after[name] - before[name]
            if name in before and name in after and name in self.runs.trained
            else np.zeros(0)
            for before, after in self.last
        ]
        return Divergence(tuple(self.rates), self.momentum, steps[0], steps[1])

    def _reference(self, side: TorchSide) -> TorchTraining:
        optimizers, schedules = self.runs.port.optimizers, self.runs.port.schedules
        assert optimizers is not None
        return TorchTraining(side, optimizers[0], schedules[0] if schedules else None)

    def _disturbed(self) -> TorchTraining:
        """The reference from weights changed by an ulp.

        Not from other inputs: flat areas would not be flat any more, whose maxima are a tie.
        """
        return self._reference(self.runs.reference64.disturbed(ULP, draw.generator(0, "ulp")))

    def _state(self, training: TorchTraining | JaxTraining) -> Arrays:
        """Parameters and statistics in the port's names and layout."""
        ported = isinstance(training, JaxTraining)
        return self.runs.in_port_names(training.state(), None, ported)

    def _step(self, training: TorchTraining | JaxTraining, step: int) -> Flat:
        """Make one training step, and return the state after it."""
        inputs, targets = self.runs.port.batch(step)
        losses, targets = self.runs.loss(targets)
        loss = losses[isinstance(training, JaxTraining)]
        gradients, value = training.gradients(inputs, loss, targets)
        training.update(gradients)
        return _flat(self._state(training), value, step + 1)

    def _compared(self, oracle: Flat, port: Flat, again: Flat | None) -> list[Check]:
        keys = [key for key in oracle if key in port or not self.runs.stateless]
        measured = [self._quantity(key, oracle[key], port.get(key), again) for key in keys]
        return self._judge("L5", measured)

    def _quantity(
        self, key: Key, oracle: np.ndarray, port: np.ndarray | None, again: Flat | None
    ) -> Measurement:
        differences = {PORT64: difference(port, oracle)}
        measured = self._measure_one(key, oracle, differences, limit=STRUCTURE_TRAJECTORY)
        drift = difference(again[key], oracle).distance if again is not None else 0.0
        return dataclasses.replace(measured, drift=drift if math.isfinite(drift) else 0.0)


def _flat(state: dict[str, np.ndarray], loss: float, steps: int) -> Flat:
    """Return the loss and the state after this many steps, by key."""
    key = Key(NETWORK, Quantity(Kind.LOSS, step=steps))
    return {key: np.asarray(loss, np.float64)} | by_layer(Quantity(Kind.STATE, step=steps), state)


def furthest_first(check: Check) -> float:
    """Return a sort key for checks, by falling error; NaN comes first."""
    return -math.inf if math.isnan(check.error) else -check.error
