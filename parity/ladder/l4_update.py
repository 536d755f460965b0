"""L4: the optimizer's steps, and the learning rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from parity.capture import jax_training, torch_training
from parity.capture.jax_training import JaxTraining
from parity.capture.records import NETWORK, Arrays
from parity.capture.torch_training import TorchTraining
from parity.ladder import tolerances
from parity.ladder.evidence import Steps
from parity.ladder.rung import Rung
from parity.ladder.runs import Flat, Key
from parity.ladder.tolerances import STRUCTURE_UPDATE, Measurement, difference
from parity.report.report import Check
from parity.spec import draw

STEPS = 4  # the first that differ by more than the moments' beginning, and one more
RATE = "learning rate"


@dataclasses.dataclass(frozen=True)
class Fed:
    """What both optimizers are fed, in the reference's names and layout, as rounded numbers.

    Attributes:
        gradients: Of each step, by the reference's name; absent where the reference has none.
        zeros: Of the same parameters, 0.
    """

    gradients: Sequence[Arrays]
    zeros: Arrays

    def disturbed(self, precision: str) -> Fed:
        """As rounding would."""
        rng = draw.generator(0, "rounding/gradients")
        disturb = tolerances.ROUNDING[precision]
        return Fed([tolerances.disturb(g, disturb, rng) for g in self.gradients], self.zeros)


class Update(Rung):
    """Both optimizers fed the reference's gradients: their steps, compared as such.

    A weight is a hundred or a thousand times larger than a step, and hides as much of its error.
    The first step is fed the gradient; those after it the gradient times numbers drawn for each
    element, so that no moment stays what it was. From the beginning again, one step is fed
    gradients of 0, which leaves nothing but the decay of weights.

    Attributes:
        weights: What they begin with, in the port's names and layout.
        rates: Both sides' learning rates, if they were compared.
        fed: What they are fed.
        steps: The reference's and the port's in float64.
    """

    weights: Arrays
    rates: tuple[np.ndarray, np.ndarray] | None = None
    fed: Fed
    steps: tuple[Flat, Flat]

    def absent(self) -> str:
        return "" if self.runs.port.optimizers else "no optimizers were given"

    def climb(self) -> list[Check]:
        self.fed = fed = self._fed()
        port, pool = self.runs.port, self.runs.pool
        state = self.runs.in_port_names(self.runs.r64.state(), None, False)
        self.weights = {name: a for name, a in state.items() if name in self.runs.trained}
        ported = [pool.submit(self._port, run, fed) for run in ("p64", "pw")]
        oracle = self._reference("r64", fed)
        found = {"rw": self._reference("rw", fed), "stir0": self._reference("stir", fed)}
        found |= {run: job.result() for run, job in zip(("p64", "pw"), ported, strict=True)}
        self.steps = oracle, found["p64"]
        measured = [self._step(key, oracle, found) for key in oracle]
        if port.schedules is not None:
            measured.insert(0, self._rates(*port.schedules))
        return self._judge("L4", measured)

    def steps_of(self, fault: Check) -> Steps:
        """What both optimizers made of the parameter that a check names."""
        leaf = fault.quantity.rpartition(" of ")[2]
        name = leaf if fault.layer == NETWORK else f"{fault.layer}.{leaf}"
        key = self.runs.tensors.source_of(name)
        fed = [self.runs.in_port_names(g, None, False) for g in self.fed.gradients]
        training = TorchTraining(self.runs.r64, self._optimizers[0], self._schedule())
        settings = []
        for _ in fed:
            settings.append(training.settings(key))
            training.update({})
        made = [
            tuple(side[Key(fault.layer, f"step {i} of {leaf}")] for i in range(1, STEPS + 1))
            for side in self.steps
        ]
        without = Key(fault.layer, f"step without gradient of {leaf}")
        return Steps(
            leaf.rpartition(".")[2],
            self.weights[name],
            tuple(g[name] for g in fed if name in g),
            tuple(settings),
            training.decay,
            made[0],
            made[1],
            (self.steps[0][without], self.steps[1][without]),
        )

    def _fed(self) -> Fed:
        """The gradients of all steps."""
        first = self.runs.oracle(True).parameter_gradients
        gradients = []
        for step in range(STEPS):
            rng = draw.generator(0, "update", step)
            shaken = {n: g * rng.standard_normal(g.shape) if step else g for n, g in first.items()}
            precision = self.runs.precision
            gradients.append({n: tolerances.round_to(g, precision) for n, g in shaken.items()})
        return Fed(gradients, {n: np.zeros_like(g) for n, g in first.items()})

    def _reference(self, run: str, fed: Fed) -> Flat:
        """The steps of the reference: in one precision, or disturbed."""
        runs = self.runs
        side = runs.rw if run == "rw" else runs.r64
        if run == "stir":
            rng = draw.generator(0, "rounding/update")
            side = side.disturbed(tolerances.ROUNDING[runs.precision], rng)
            fed = fed.disturbed(runs.precision)

        def training() -> TorchTraining:
            return TorchTraining(side, self._optimizers[0], self._schedule(), run == "stir")

        return self._steps(training, fed, False)

    def _port(self, run: str, fed: Fed) -> Flat:
        side = getattr(self.runs, run)

        def training() -> JaxTraining:
            return JaxTraining(side, self._optimizers[1])

        return self._steps(training, fed, True)

    @property
    def _optimizers(self) -> tuple[Any, Any]:
        found = self.runs.port.optimizers
        assert found is not None  # the rung would be absent
        return found

    def _schedule(self) -> Any:
        return self.runs.port.schedules[0] if self.runs.port.schedules else None

    def _steps(self, training: Any, fed: Fed, ported: bool) -> Flat:
        """By the port's name and layer, the steps of one side."""
        found: Flat = {}
        for quantity, gradients in (("step {} of", fed.gradients), ("step without", [fed.zeros])):
            made = training()
            before = self._parameters(made, ported)
            for i, g in enumerate(gradients, 1):
                made.update(self.runs.in_port_names(g, None, False) if ported else g)
                after = self._parameters(made, ported)
                for name, array in after.items():
                    layer, _, leaf = name.rpartition(".")
                    what = quantity.format(i)
                    what = f"{what} gradient of" if what == "step without" else what
                    found[Key(layer or NETWORK, f"{what} {leaf}")] = array - before[name]
                before = after
        return found

    def _parameters(self, training: TorchTraining | JaxTraining, ported: bool) -> Arrays:
        """What both sides train, in the port's names and layout."""
        arrays = self.runs.in_port_names(training.state(), None, ported)
        return {name: a for name, a in arrays.items() if name in self.runs.trained}

    def _step(self, key: Key, oracle: Flat, found: dict[str, Flat]) -> Measurement:
        apart = {
            run: difference(
                flat.get(key), oracle[key], self.runs.precision if run[1] == "w" else "float64"
            )
            for run, flat in found.items()
        }
        together = key.quantity.rpartition(" of ")[0]
        limit = STRUCTURE_UPDATE + self._rounding(key, tolerances.size(oracle[key]))
        return self._one(key, oracle[key], apart, limit=limit, together=together)

    def _rounding(self, key: Key, size: float) -> float:
        """Of a step in float64, relative to it: on either side two weights were rounded."""
        leaf = key.quantity.rpartition(" of ")[2]
        name = leaf if key.layer == NETWORK else f"{key.layer}.{leaf}"
        return 4 * 2.0**-53 * tolerances.size(self.weights[name]) / size if size else 0.0

    def _rates(self, theirs: Any, ours: Any, count: int) -> Measurement:
        """The learning rate at every step; the largest relative difference counts."""
        make = self._optimizers[0]
        reference = torch_training.rates(self.runs.port.reference, make, theirs, count)
        port = jax_training.rates(ours, count)
        self.rates = reference, port
        apart = difference(port, reference)
        if np.isfinite(apart.distance):
            apart = tolerances.furthest(port, reference)
        key = Key(NETWORK, RATE)
        measured = self._one(key, reference, {"p64": apart}, limit=STRUCTURE_UPDATE)
        return dataclasses.replace(measured, size=1.0, elements=count + tolerances.FEW)
