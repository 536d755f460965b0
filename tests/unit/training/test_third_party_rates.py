"""The learning rate of every step of a real run, against the schedulers of `torch.optim`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from parity.spec.models import MODELS
from parity.spec.training.optimizers import Group, Optimizer
from parity.spec.training.recipe import Stage
from parity.spec.training.schedules import Schedule
from parity.spec.training.trainer import Batch
from parity.training import logger
from parity.training.run import Options
from parity.training.side import Side
from tests.fake_training import SAMPLES, TINY, Fake, FakeData, recipe, run

Scheduler = Callable[[torch.optim.Optimizer], Any]
LOG = Options(log_every=1, keep_every=0, pictures=0)
BASE = Stage("whole", "genet", epochs=3, optimizer=Optimizer("sgd", lr=0.01), batch=4)
STEPS = -(-SAMPLES // BASE.batch)  # of an epoch: the last batch is not full


def rates(make: Scheduler, lr: float, first: int, count: int) -> list[float]:
    """What torch's own scheduler gives from its `first` step on."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler, found = make(optimizer), []
    for _ in range(first + count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found[first:]


def warm(optimizer: torch.optim.Optimizer) -> Any:
    """A third, two thirds, then the whole rate, which falls along a cosine."""
    rise = lr_scheduler.LinearLR(optimizer, start_factor=1 / 3, total_iters=2)
    fall = lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)
    return lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[3])


def stage(name: str, lr: float, **others: Any) -> Stage:
    return dataclasses.replace(BASE, name=name, optimizer=Optimizer("sgd", lr=lr), **others)


# A stage of each kind; what torch has for it; the scheduler's steps before it; whether it counts
# steps, not epochs.
STAGES: list[tuple[Stage, Scheduler, int, bool]] = [
    (stage("constant", 0.03, epochs=2), lambda o: lr_scheduler.ConstantLR(o, 1.0), 0, False),
    (
        stage("step", 0.05, epochs=5, schedule=Schedule("step", every=2, gamma=0.1)),
        lambda o: lr_scheduler.StepLR(o, 2, 0.1),
        0,
        False,
    ),
    (
        stage(
            "milestones",
            0.1,
            epochs=4,
            first_epoch=1,
            schedule=Schedule("multistep", milestones=(1, 3), gamma=0.2),
        ),
        lambda o: lr_scheduler.MultiStepLR(o, [1, 3], 0.2),
        1,
        False,
    ),
    (
        stage("poly", 0.02, epochs=4, first_epoch=3, schedule=Schedule("poly", length=7)),
        lambda o: lr_scheduler.PolynomialLR(o, 7, power=0.9),
        3,
        False,
    ),
    (
        stage(
            "poly-steps",
            0.04,
            first_epoch=1,
            schedule=Schedule("poly", length=4, per_step=True),
        ),
        lambda o: lr_scheduler.PolynomialLR(o, 4 * STEPS, power=0.9),
        STEPS,
        True,
    ),
    (
        stage("poly-from-1", 0.04, schedule=Schedule("poly", length=3, per_step=True, first=1)),
        lambda o: lr_scheduler.PolynomialLR(o, 3 * STEPS, power=0.9),
        1,
        True,
    ),
    (
        stage(
            "cosine-steps",
            0.06,
            epochs=2,
            first_epoch=2,
            schedule=Schedule("cosine", length=5, per_step=True),
        ),
        lambda o: lr_scheduler.CosineAnnealingLR(o, 5 * STEPS),
        2 * STEPS,
        True,
    ),
    (
        stage(
            "warm",
            0.08,
            epochs=7,
            first_epoch=1,
            schedule=Schedule("cosine", length=8, warmup=3, after_warmup=True),
        ),
        warm,
        1,
        False,
    ),
]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tiny", "genet"):
        monkeypatch.setitem(MODELS, name, TINY)


def expected() -> list[tuple[str, float]]:
    """Stage and rate of every step of a run of all stages."""
    found = []
    for each, make, first, of_steps in STAGES:
        count = each.epochs * (STEPS if of_steps else 1)
        values = rates(make, each.optimizer.lr, first, count)
        found += [(each.name, v) for v in values for _ in range(1 if of_steps else STEPS)]
    return found


def logged(out: Path) -> list[tuple[str, float]]:
    lines = logger.read(out / "log.jsonl")
    return [(line["stage"], line["rate"]) for line in lines if line["kind"] == "step"]


class Told(Fake):
    """Notes the rate of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[float] = []

    def trainer(self, *args: Any) -> Any:
        made = super().trainer(*args)
        step = made.step

        def noting(batch: Batch, rate: float) -> Any:
            self.rates.append(rate)
            return step(batch, rate)

        made.step = noting
        return made


@pytest.mark.parametrize("limits", [(None,), (1, 4, 10, None)])
def test_every_step_of_a_run(limits: tuple[int | None, ...], tmp_path: Path) -> None:
    """Catches a stage's `first_epoch` not added, and a rate of steps taken per epoch.

    Or the other way round; a stage that goes on where the one before it ended; a rate that is not
    put back when a run goes on.
    """
    whole, sides = recipe(*(each for each, *_ in STAGES)), []
    for limit in limits:
        sides.append(Told())
        options = dataclasses.replace(LOG, epochs=limit)
        assert run(tmp_path, whole, sides[-1], options).go()
    found, right = logged(tmp_path), expected()
    assert [name for name, _ in found] == [name for name, _ in right]
    values = [rate for _, rate in found]
    # The cosine ends at 0, to a rounding.
    np.testing.assert_allclose(values, [rate for _, rate in right], rtol=1e-9, atol=1e-17)
    assert [rate for side in sides for rate in side.rates] == values


class Larger(FakeData):
    """Images that a GENet takes, and few to validate on."""

    def validation(self, stage: Stage) -> Any:
        yield next(super().validation(stage))

    @staticmethod
    def _batch(samples: np.ndarray) -> Batch:
        batch = FakeData._batch(samples)
        return batch._replace(images=np.tile(batch.images, (1, 4, 4, 1)))


class Measuring(Side):
    """A framework whose every step is done twice: as asked, and with a rate of 1 for all.

    Attributes:
        moved: Per step, how far the network's first and last layer went, over how far they go with
            a rate of 1.
    """

    def __init__(self, framework: str) -> None:
        super().__init__(framework)
        self.moved: list[tuple[float, float]] = []

    def trainer(self, of: Any, stage: Stage, arrays: Any, class_weights: Any) -> Any:
        alike = dataclasses.replace(stage.optimizer, groups=())
        other = super().trainer(of, dataclasses.replace(stage, optimizer=alike), arrays, None)
        made = super().trainer(of, stage, arrays, class_weights)
        step = made.step

        def twice(batch: Batch, rate: float) -> Any:
            before = made.snapshot()
            done = step(batch, rate)
            other.restore(before)
            other.step(batch, 1.0)
            three = [self.published(stage, x).arrays for x in (before, made.snapshot())]
            three.append(self.published(stage, other.snapshot()).arrays)
            self.moved.append((part(*three, "conv1.weight"), part(*three, "fc.weight")))
            return done

        made.step = twice
        return made


def part(before: Any, after: Any, whole: Any, key: str) -> float:
    """One step over another, of a parameter: both in one direction."""
    one, unit = (np.ravel(x[key] - before[key]) for x in (after, whole))
    return float(one @ unit / (unit @ unit))


@pytest.mark.parametrize(
    ("framework", "kind"), [("torch", "sgd"), ("torch", "adam"), ("jax", "adam")]
)
def test_the_rate_that_moves_the_weights(framework: str, kind: str, tmp_path: Path) -> None:
    """Catches a rate that is logged and not used, or a group's factor used twice, or not at all."""
    optimizer = Optimizer(kind, lr=2e-3, momentum=0.0, groups=(Group(("fc.",), 10.0),))
    poly = Schedule("poly", length=3, per_step=True)
    shared = {"optimizer": optimizer, "epochs": 1, "batch": 5, "initial": "he-fan-out"}
    steps = dataclasses.replace(BASE, first_epoch=1, schedule=poly, **shared)
    epochs = dataclasses.replace(
        BASE, name="second", first_epoch=2, schedule=Schedule("step", every=2), **shared
    )
    side: Any = Measuring(framework)
    of = dataclasses.replace(recipe(steps, epochs), precision="fp64")
    assert run(tmp_path, of, side, LOG, data=Larger()).go()
    right = rates(lambda o: lr_scheduler.PolynomialLR(o, 6, power=0.9), 2e-3, 2, 2)
    right += [2e-4, 2e-4]
    np.testing.assert_allclose([rate for _, rate in logged(tmp_path)], right, rtol=1e-12)
    first, last = zip(*side.moved, strict=True)
    np.testing.assert_allclose(first, right, rtol=1e-6)
    np.testing.assert_allclose(last, 10 * np.array(right), rtol=1e-6)
