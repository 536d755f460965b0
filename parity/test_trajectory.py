"""L5 of the project's own networks: recipes in small, trained by both sides in float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from parity.rehearsal.both import Rehearsal
from parity.rehearsal.shortened import shortened
from parity.rehearsal.side import Half
from parity.spec.recipes import RECIPES
from parity.spec.training.trainer import Batch

# The others take minutes to compile: `pytest -m long parity/test_trajectory.py`.
QUICK = ("genet-cifar10",)
STEPS = 50  # through each fall of the rate and each change of the stage


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.long) for n in RECIPES]
)
def test_both_sides_train_alike(name: str) -> None:
    """Catches whatever differs between the trainers, in any parameter after any of the steps."""
    recipe = shortened(RECIPES[name], STEPS)
    rehearsal = Rehearsal(Half("torch", recipe), Half("jax", recipe), STEPS)
    checks = rehearsal.checks()
    assert not [check.sentence() for check in checks if not check.ok]
    assert len(checks) >= 40
    assert rehearsal.last[-1][0].step == STEPS


def test_a_batch_that_differs_is_found() -> None:
    """Catches a comparison that passes whatever it is given: one pixel of one side is changed."""

    def changed(batch: Batch) -> Batch:
        images = batch.images.copy()
        images[0, 0, 0, 0] = np.nextafter(images[0, 0, 0, 0], 2)
        return batch._replace(images=images)

    recipe = shortened(RECIPES[QUICK[0]], STEPS)
    recipe = dataclasses.replace(recipe, stages=recipe.stages[:1])
    rehearsal = Rehearsal(Half("torch", recipe), Half("jax", recipe, change=changed), 2)
    wrong = [check for check in rehearsal.checks() if not check.ok]
    assert [check.quantity for check in wrong] == ["images, as handed up to step 1"]
