"""L5: every recipe, scaled down, trained by both sides, 50 steps in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from parity.faults import staged
from parity.model_checks.recipes.compare_sides import TrainingComparison
from parity.model_checks.recipes.scaled_down import STEPS, scaled_down
from parity.model_checks.recipes.side import TrainedSide
from parity.report.report import Report
from parity.spec.recipes import RECIPES
from parity.spec.training.trainer import Batch

LIMIT = 1e-8
# The others take minutes to compile: `pytest -m long parity/tests/test_trajectory.py`.
QUICK = ("genet-cifar10",)


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.long) for n in RECIPES]
)
def test_recipe(name: str) -> None:
    """Catches any difference in 50 steps: data, masks, losses, every parameter and statistic.

    Through every stage, and at least one fall of the rate.
    """
    recipe = scaled_down(RECIPES[name])
    comparison = TrainingComparison(TrainedSide("torch", recipe), TrainedSide("jax", recipe), STEPS)
    checks = comparison.checks()
    failed = [c.sentence() for c in checks if not c.ok]
    assert not failed, failed[0]
    last = comparison.last[-1][0]
    assert last.step == STEPS
    assert last.stage is recipe.stages[-1]
    assert last.rate < max(comparison.sides[0].rates()[:STEPS])
    compared = {f"{c.layer}.{c.quantity.path}" for c in checks}
    assert last.arrays.keys() <= compared
    assert max(c.error for c in checks) <= LIMIT
    assert {"images, as handed", "targets 0, as handed"} <= {str(c.quantity) for c in checks}
    sites = {f"mask of {site}, as handed" for site in last.stage.config.dropout_sites(*recipe.size)}
    assert sites <= {str(c.quantity) for c in checks}


def mirrored(batch: Batch) -> Batch:
    return batch._replace(images=batch.images[:, :, ::-1].copy())


def nudged(batch: Batch) -> Batch:
    """One value of one pixel is another by a unit in the last place."""
    images = batch.images.copy()
    images[0, 0, 0, 0] = np.nextafter(images[0, 0, 0, 0], 2)
    return batch._replace(images=images)


def kept(batch: Batch) -> Batch:
    """One channel more is kept by one mask."""
    site = next(iter(batch.masks))
    mask = batch.masks[site].copy()
    mask[0, np.argmin(mask[0])] = True
    return batch._replace(masks={**batch.masks, site: mask})


@pytest.mark.parametrize(
    ("change", "part"), [(mirrored, "images"), (nudged, "images"), (kept, "mask of")]
)
def test_other_bytes_are_seen(change: Callable[[Batch], Batch], part: str) -> None:
    """Catches a batch, or one bit of one mask, that only one side was handed."""
    recipe = scaled_down(RECIPES["enet-cityscapes"])
    halves = TrainedSide("torch", recipe), TrainedSide("jax", recipe, change=change)
    checks = TrainingComparison(*halves, 2).checks()
    fault = Report("enet", "float64", checks).fault()
    assert fault is not None
    assert str(fault.quantity).startswith(part)
    assert "up to step 1" in fault.sentence()


def test_a_rate_one_step_late_is_seen() -> None:
    """Catches trajectories compared where no rate has fallen yet."""
    recipe = scaled_down(RECIPES["enet-cityscapes"])
    late = TrainedSide("jax", recipe)
    rates = late.rates()
    late.rates = lambda: [rates[0], *rates]  # type: ignore[method-assign]  # the fault
    comparison = TrainingComparison(TrainedSide("torch", recipe), late, STEPS)
    failed = [c for c in comparison.checks() if not c.ok]
    fall = next(i for i, rate in enumerate(rates) if rate < rates[0])
    assert failed
    assert failed[0].quantity.step == fall + 1


def test_a_stage_that_begins_otherwise_is_named() -> None:
    """Catches fault 54 unseen, or a cause that is not the stage's beginning."""
    row = next(r for r in staged.rows("enet-mindspore") if r.number == 54)
    assert row.killed
    assert row.right, row.named
    assert row.rung == "L5"
    assert not row.wrong


@pytest.mark.parametrize("name", RECIPES)
def test_shortened_recipes_leave_nothing_out(name: str) -> None:
    """Catches a rehearsal without a stage, an operation, a fall of the rate, or a warm-up."""
    recipe, small = RECIPES[name], scaled_down(RECIPES[name])
    assert [s.name for s in small.stages] == [s.name for s in recipe.stages]
    for stage, short in zip(recipe.stages, small.stages, strict=True):
        assert [type(x) for x in short.augmentation] == [type(x) for x in stage.augmentation]
        assert short.loss == stage.loss
        assert short.optimizer == stage.optimizer
        assert short.config.describe().keys() >= stage.config.describe().keys()
        assert getattr(short.config, "dropout", None) == getattr(stage.config, "dropout", None)
        changed = dataclasses.replace(stage.schedule, **_lengths(short.schedule))
        assert changed == short.schedule
        assert bool(short.schedule.warmup) == bool(stage.schedule.warmup)


def _lengths(schedule: object) -> dict[str, object]:
    return {n: getattr(schedule, n) for n in ("every", "milestones", "length", "warmup")}
