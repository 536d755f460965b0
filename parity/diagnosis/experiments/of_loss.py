"""Experiments on a loss, where the networks agree and their losses do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parity.capture.torch_operations import Operation, Operations, Replacements
from parity.diagnosis.experiments.engine import Make, Proofs, tried
from parity.ladder.climb import Ladder
from parity.ladder.flattening import flattened
from parity.ladder.keys import Flat
from parity.report.quantity import Kind


class LossOperations:
    """The reference's loss, run with some of its operations replaced."""

    def __init__(self, ladder: Ladder) -> None:
        self.runs, self.ladder = ladder.runs, ladder
        (self.loss, _), self.targets = self.runs.loss(self.runs.port.targets)
        ported = self.runs.run(self.runs.port64, True)
        self.port = _of_loss(flattened(self.runs, ported, True, True))

    def run(self, replacements: Replacements, record: bool = False) -> tuple[Flat, list[Operation]]:
        """Return the loss, all gradients, and the operations of the loss if they are recorded."""
        mode = Operations(replacements, record)

        def changed(outputs: Any, *targets: Any) -> Any:
            with mode:
                return self.loss(outputs, *targets)

        side = self.runs.reference64
        result = side.run(self.runs.inputs[True], True, changed, self.targets)
        return _of_loss(flattened(self.runs, result, True, False)), mode.found

    def agrees(self, run: str, make: Make) -> bool:
        """Return whether the changed loss, and all of its gradients, are the port's."""
        del run
        return self.ladder.layers.agree(self.run(make())[0], self.port, "")


def _of_loss(flat: Flat) -> Flat:
    return {
        key: array
        for key, array in flat.items()
        if key.quantity.kind is Kind.LOSS or key.quantity.is_gradient
    }


def explained(ladder: Ladder) -> tuple[Proofs, Sequence[Operation]]:
    """Return the changes of the loss that are proved, and its operations."""
    found = LossOperations(ladder)
    _, operations = found.run({}, record=True)
    return tried({"loss": operations}, found.agrees), operations
