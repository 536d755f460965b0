"""L1: each layer alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from parity.capture.records import Call, ForwardError
from parity.capture.run import Run, Side
from parity.capture.torch_side import TorchSide
from parity.ladder import tolerances
from parity.ladder.keys import Flat, Key, against
from parity.ladder.layer_alone import UnlikeError
from parity.ladder.port_rounding import compared
from parity.ladder.recorded import is_narrow
from parity.ladder.rung import Absence, Lacking, Rung
from parity.ladder.runs import DISTURBED, PORT64, Runs
from parity.ladder.tolerances import Difference, Measurement, difference, of_layer
from parity.report.quantity import Kind, Mode, Quantity, Scope
from parity.report.report import Check, Report
from parity.spec import draw

MOST_DRIFT = 1e-3  # relative, of numbers that are told from others in spite of it


class Layers(Rung):
    """Rung L1: each innermost layer alone, fed the reference's input and upstream gradient.

    Attributes:
        unfed: The port's layers that could not be fed alone; a note says why.
    """

    def __init__(self, runs: Runs, notes: list[str]) -> None:
        super().__init__(runs, notes)
        self.unfed: set[str] = set()

    def absent(self) -> Absence | None:
        return Absence.first({Lacking.BOUNDS: self.runs.bounded.empty("L1")})

    def climb(self) -> list[Check]:
        """Compare each innermost layer alone, fed the reference's input and upstream gradient."""
        runs = self.runs
        trained = runs.oracle(True).calls  # also finds what the reference draws by itself
        scale = tolerances.ROUNDING[runs.precision]
        disturbed = runs.reference64.noisy(scale, lambda: draw.generator(0, "rounding"))
        evaluated = runs.oracle(False).calls
        cases: list[tuple[Call, bool]] = []
        for call in trained.values():
            pair = runs.pair(call)
            asked = pair or (runs.strict and runs.bounded.compares(call.layer))
            if not runs.leaf(call) or not asked:
                continue
            if pair and (made := runs.names.mixed(pair)):
                self._not_fed(pair.port, f"holds {made[0]}, which was made")
                continue
            cases.append((call, True))
            if runs.port.train and call.layer in evaluated and self._has_modes(call):
                cases.append((evaluated[call.layer], False))
        found = runs.pool.map(lambda case: self._layer(case[0], case[1], disturbed), cases)
        measured = [m for layer in found for m in layer]
        if not measured:  # such as a function: the whole is the only layer there is
            measured += self._network()
        return self._judge("L1", measured)

    def whole(self) -> list[Check]:
        """Compare the whole network as the only layer, where no other one is left."""
        return self._judge("L1", self._network())

    def _not_fed(self, layer: str, reason: str) -> None:
        self.unfed.add(layer)
        self.notes.append(f"not fed alone: {layer} {reason}")

    def blocks(self, report: Report) -> list[Check]:
        """Blocks alone, in float64, where the network is wrong although every layer is right.

        Then the fault lies in what a block does between its layers. What they are fed is not
        rounded: rounded to half precision, many numbers would be equal, and between equals of a
        pool in a block the last bit decides, in which float64 differs from library to library.
        """
        if any(c.rung == "L1" and c.kind == "structure" for c in report.failures()):
            return []
        runs = self.runs
        calls = [
            c for c in runs.oracle(True).calls.values() if runs.reference64.has_parts(c.module)
        ]
        paired = [c for c in calls if runs.pair(c)]
        measured = [m for call in paired for m in self._layer(call, True, None, rounded=False)]
        return self._judge("L1", measured)

    def agree(
        self, oracle: Flat, port: Flat, reference: str, drift: Mapping[Key, float] | None = None
    ) -> bool:
        """Return whether a layer of the port in float64 gives all of an oracle's numbers.

        Args:
            oracle: The reference's numbers.
            port: The port's.
            reference: The reference's name of the layer.
            drift: How far the oracle's numbers drift; see `Measurement`. A number that drifts
                farther than `MOST_DRIFT` of its size does not agree with anything.
        """
        measured = [
            dataclasses.replace(m, drift=(drift or {}).get(Key(m.layer, m.quantity), 0.0))
            for m in self._measure(oracle, {PORT64: port}, reference)
        ]
        judged = self._judge("L1", measured)
        return all(check.ok and check.limit <= MOST_DRIFT for check in judged)

    def _has_modes(self, call: Call) -> bool:
        pair = self.runs.pair(call)
        if pair is None:
            return False
        port = self.runs.port64.has_modes(pair.port.partition("#")[0])
        return port or self.runs.reference64.has_modes(call.module)

    def _layer(
        self, call: Call, train: bool, disturbed: TorchSide | None, rounded: bool = True
    ) -> list[Measurement]:
        """Measure one call of one layer; in float64 only where nothing is `disturbed`."""
        runs, pair = self.runs, self.runs.pair(call)
        train = runs.mode(train)
        if rounded and pair and runs.layers.overflows(call, train):
            exact = self._layer(call, train, None, rounded=False)
            if not runs.layers.is_alone(call, train, disturbed):  # structure alone is compared
                return exact
            return [m.with_numerics(Difference(math.inf), math.inf, 0.0) for m in exact]
        output = Quantity(Kind.OUTPUT, index=0, mode=Mode.of(train), scope=Scope.LAYER)
        if pair is None:
            return [self._measure_one(Key(call.layer, output), call.outputs[0], {})]
        alone = runs.layers.is_alone(call, train)
        if not alone and not call.arrays():
            return []
        disturbed = disturbed if alone and runs.layers.is_alone(call, train, disturbed) else None
        fed = runs.layers.fed(call, train, rounded)
        oracle = runs.layers.alone(runs.reference64, call, pair, train, fed)
        # Known in the working precision alone, and nothing says how far that moves the reference.
        coarse = runs.coarse or (disturbed is None and is_narrow(runs.port))
        found: dict[Run, Flat] = {}
        reference, port = (Run(side, runs.precision) for side in Side)
        try:
            found[PORT64] = runs.layers.alone(runs.port64, call, pair, train, fed)
            if disturbed or coarse:
                found[port] = runs.layers.alone(runs.port_working, call, pair, train, fed)
        except ForwardError as error:
            lost = {PORT64: Difference(math.inf, note=str(error))}
            return [self._measure_one(Key(pair.port, output), call.outputs[0], lost, call.layer)]
        except UnlikeError as reason:
            if runs.strict:
                lost = {PORT64: Difference(math.inf, note=str(reason))}
                return [
                    self._measure_one(Key(pair.port, output), call.outputs[0], lost, call.layer)
                ]
            self._not_fed(pair.port, str(reason))
            return []
        if not alone:  # inputs' gradients, and what several calls share, are not known
            found = {run: {k: flat[k] for k in flat if k in oracle} for run, flat in found.items()}
        if coarse:
            rng = draw.generator(0, f"rounding/{call.layer}")
            fed = tolerances.disturb(fed, tolerances.ROUNDING[runs.precision], rng)
            moved = runs.layers.alone(runs.port64, call, pair, train, fed)
            return self._coarse(oracle, found[PORT64], found[port], moved, call.layer)
        if disturbed:
            found[reference] = runs.layers.alone(runs.reference_working, call, pair, train, fed)
            rng = draw.generator(0, f"rounding/{call.layer}")
            fed = tolerances.disturb(fed, tolerances.ROUNDING[runs.precision], rng)
            found[DISTURBED[0]] = runs.layers.alone(disturbed, call, pair, train, fed)
        measured = self._measure(oracle, found, call.layer)
        if runs.port64.rounded:
            noise = tolerances.ROUNDING["float32"]
            fed = runs.layers.fed(call, train, rounded)
            noisy = runs.layers.alone(runs.port64, call, pair, train, fed, noise)
            measured = [self._with_drift(m, noisy, found[PORT64]) for m in measured]
        return measured

    def _coarse(
        self, oracle: Flat, exact: Flat, rounded: Flat, moved: Flat, reference: str
    ) -> list[Measurement]:
        """Measure a layer whose reference is known in the working precision alone."""
        found = compared(self.runs.precision, oracle, exact, rounded, moved)
        return [
            self._measure_one(
                key,
                against(key, oracle, exact),
                {run: each[key] for run, each in found.items()},
                reference,
            )
            for key in found[PORT64]
        ]

    def _with_drift(self, m: Measurement, noisy: Flat, plain: Flat) -> Measurement:
        """Add how far the layer moves where constants known in float32 alone are disturbed."""
        key = Key(m.layer, m.quantity)
        drift = difference(noisy.get(key), plain.get(key)).distance
        return dataclasses.replace(m, drift=drift) if math.isfinite(drift) else m

    def _network(self) -> list[Measurement]:
        """Return the whole network as one layer."""
        gradients = not self._loss_at_fault()  # else they say nothing about the network
        found = self._measure_network(
            True, lambda q: q.kind is Kind.OUTPUT or (gradients and q.is_gradient)
        )
        return [
            dataclasses.replace(m, quantity=dataclasses.replace(m.quantity, scope=Scope.ONLY_LAYER))
            for m in found
        ]

    def _measure(
        self, oracle: Flat, found: Mapping[Run, Flat], reference: str
    ) -> list[Measurement]:
        """Compare, key by key, the runs of one layer with the oracle's."""
        measured = []
        for key in dict.fromkeys([*oracle, *found[PORT64]]):
            target = against(key, oracle, found[PORT64])
            differences = {
                run: difference(
                    of_layer(flat[key], run.precision) if key in flat else None,
                    target,
                    run.precision,
                )
                for run, flat in found.items()
            }
            measured.append(self._measure_one(key, target, differences, reference))
        return measured
