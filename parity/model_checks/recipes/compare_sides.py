"""Both sides of a rehearsal, step by step, until they part."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from parity.capture.records import NETWORK
from parity.capture.torch_side import one_thread
from parity.ladder import tolerances
from parity.ladder.evidence import Parting
from parity.ladder.tolerances import STRUCTURE_TRAJECTORY, Measurement
from parity.model_checks.recipes.side import After, Half
from parity.report.report import Check
from weights_convert import naming


class Rehearsal:
    """Two halves of the same recipe.

    Args:
        reference: Of PyTorch.
        port: Of JAX.
        most: Steps.

    Attributes:
        last: The last two steps that the reference made, and the port's.
    """

    def __init__(self, reference: Half, port: Half, most: int) -> None:
        self.halves = reference, port
        self.most = most
        self.last: list[tuple[After, After]] = []

    def checks(self) -> list[Check]:
        """Compare after every step; what is reported is the first where they differ, or the last.

        The bytes that the trainers were handed are compared at every step, and reported once for
        all.
        """
        with one_thread():
            return self._checks()

    def _checks(self) -> list[Check]:
        handed: dict[str, Check] = {}
        found: list[Check] = []
        pairs = zip(*(half.steps(self.most) for half in self.halves), strict=True)
        for theirs, ours in pairs:
            self.last = [*self.last[-1:], (theirs, ours)]
            for check in _handed(theirs, ours):
                handed[check.quantity] = check
            found = tolerances.judge("L5", list(_measured(theirs, ours)))
            if any(not c.ok for c in (*handed.values(), *found)):
                return sorted([*handed.values(), *found], key=_furthest_first)
        return [*handed.values(), *found]

    def parting(self, fault: Check) -> Parting:
        """How the halves part, as the parameter shows it that a check names."""
        leaf = fault.quantity.partition(" after ")[0]
        name = leaf if fault.layer == NETWORK else f"{fault.layer}.{leaf}"
        now, past = self.last[-1], self.last[0] if len(self.last) > 1 else None
        stage, steps = now[0].stage, []
        for i, side in enumerate(now):
            before = past[i].arrays.get(name) if past else None
            after = side.arrays.get(name)
            made = before is not None and after is not None and before.shape == after.shape
            steps.append(after - before if made else np.zeros(0))  # type: ignore[operator]  # both are there
        return Parting(
            tuple(self.halves[0].rates()[: now[0].step + 1]),
            stage.optimizer.momentum if stage.optimizer.kind == "sgd" else 0.0,
            steps[0],
            steps[1],
            begins=past is not None and past[0].stage is not stage,
        )


def _handed(reference: After, port: After) -> Iterator[Check]:
    """What either trainer was handed, bit for bit."""
    for part in sorted(reference.handed.keys() | port.handed.keys()):
        hashes = reference.handed.get(part, "nothing"), port.handed.get(part, "nothing")
        note = "" if hashes[0] == hashes[1] else f"{hashes[1][:16]}, reference {hashes[0][:16]}"
        if part == "writing":
            note = next(h for h in hashes if h != "nothing")
        quantity = (
            f"{part}, as handed up to step {reference.step}" if note else f"{part}, as handed"
        )
        yield Check(
            "L5", "structure", NETWORK, NETWORK, quantity, math.inf if note else 0.0, 0.0, note=note
        )


def _measured(reference: After, port: After) -> Iterator[Measurement]:
    after = f"after {reference.step} step{'s' * (reference.step > 1)}"
    losses = np.asarray(port.loss, np.float64), np.asarray(reference.loss, np.float64)
    quantity, limit = f"loss of step {reference.step}", STRUCTURE_TRAJECTORY
    yield tolerances.measured(NETWORK, NETWORK, quantity, *losses, limit)
    names = naming.names(reference.stage.config, "jax")
    for name, (key, _) in names.items():
        layer, _, leaf = name.rpartition(".")
        sides, named = (port.arrays[name], reference.arrays[name]), key.rpartition(".")[0]
        yield tolerances.measured(layer, named, f"{leaf} {after}", *sides, limit)


def _furthest_first(check: Check) -> float:
    """Of a sort; what is not even a number comes before all else."""
    return -math.inf if math.isnan(check.error) else -check.error
