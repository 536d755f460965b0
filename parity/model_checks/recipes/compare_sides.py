"""Training both sides on a scaled-down recipe, compared step by step until they diverge."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from parity.capture.records import NETWORK
from parity.capture.torch_threads import one_thread
from parity.ladder import tolerances, verdicts
from parity.ladder.evidence import Divergence
from parity.ladder.keys import full_name
from parity.ladder.l5_trajectory import furthest_first
from parity.ladder.tolerances import STRUCTURE_TRAJECTORY, Measurement
from parity.model_checks.recipes.side import StepState, TrainedSide
from parity.report.quantity import Kind, Quantity
from parity.report.report import Check
from weights_convert import naming


class TrainingComparison:
    """Both frameworks trained on the same recipe.

    Args:
        reference: The PyTorch side.
        port: The JAX side.
        max_steps: Number of steps after which both stop.

    Attributes:
        last: The last two steps that the reference made, and the port's.
    """

    def __init__(self, reference: TrainedSide, port: TrainedSide, max_steps: int) -> None:
        self.sides = reference, port
        self.max_steps = max_steps
        self.last: list[tuple[StepState, StepState]] = []

    def checks(self) -> list[Check]:
        """Compare after every step; report the first step where they differ, or the last.

        The input bytes of both trainers are compared at every step, and reported once for all
        steps.
        """
        with one_thread():
            return self._checks()

    def _checks(self) -> list[Check]:
        handed: dict[Quantity, Check] = {}
        found: list[Check] = []
        pairs = zip(*(side.steps(self.max_steps) for side in self.sides), strict=True)
        for theirs, ours in pairs:
            self.last = [*self.last[-1:], (theirs, ours)]
            for check in _handed(theirs, ours):
                handed[check.quantity] = check
            found = verdicts.judge("L5", list(_measured(theirs, ours)))
            if any(not c.ok for c in (*handed.values(), *found)):
                return sorted([*handed.values(), *found], key=furthest_first)
        return [*handed.values(), *found]

    def divergence(self, fault: Check) -> Divergence:
        """Return how the sides diverge, for the parameter that a check names."""
        name = full_name(fault.layer, fault.quantity.path)
        now, past = self.last[-1], self.last[0] if len(self.last) > 1 else None
        stage, steps = now[0].stage, []
        for i, side in enumerate(now):
            before = past[i].arrays.get(name) if past else None
            after = side.arrays.get(name)
            made = before is not None and after is not None and before.shape == after.shape
            steps.append(after - before if made else np.zeros(0))  # type: ignore[operator]  # both are there
        return Divergence(
            tuple(self.sides[0].rates()[: now[0].step + 1]),
            stage.optimizer.momentum if stage.optimizer.kind == "sgd" else 0.0,
            steps[0],
            steps[1],
            begins=past is not None and past[0].stage is not stage,
        )


def _handed(reference: StepState, port: StepState) -> Iterator[Check]:
    """Compare the batches that both trainers received, bit for bit."""
    for part in sorted(reference.batch_digests.keys() | port.batch_digests.keys()):
        hashes = (
            reference.batch_digests.get(part, "nothing"),
            port.batch_digests.get(part, "nothing"),
        )
        note = "" if hashes[0] == hashes[1] else f"{hashes[1][:16]}, reference {hashes[0][:16]}"
        if part == "writing":
            note = next(h for h in hashes if h != "nothing")
        quantity = Quantity(Kind.BATCH, part, step=reference.step if note else 0)
        yield Check(
            "L5", "structure", NETWORK, NETWORK, quantity, math.inf if note else 0.0, 0.0, note=note
        )


def _measured(reference: StepState, port: StepState) -> Iterator[Measurement]:
    losses = np.asarray(port.loss, np.float64), np.asarray(reference.loss, np.float64)
    quantity, limit = Quantity(Kind.LOSS, step=reference.step), STRUCTURE_TRAJECTORY
    yield tolerances.measured(NETWORK, NETWORK, quantity, *losses, limit)
    names = naming.names(reference.stage.config, "jax")
    for name, (key, _) in names.items():
        layer, _, leaf = name.rpartition(".")
        sides, named = (port.arrays[name], reference.arrays[name]), key.rpartition(".")[0]
        quantity = Quantity(Kind.STATE, leaf, step=reference.step)
        yield tolerances.measured(layer, named, quantity, *sides, limit)
