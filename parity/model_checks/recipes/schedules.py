"""L4: the learning rate at every step of a recipe, against PyTorch's and optax's own schedules."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from parity.ladder import tolerances, verdicts
from parity.ladder.tolerances import STRUCTURE_UPDATE, Measurement
from parity.report.quantity import Kind, Quantity
from parity.report.report import Check
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.schedules import Schedule

# Training images of each data set.
SAMPLES = {"cityscapes": 2975, "camvid": 367, "cifar10": 50000}
LIBRARIES = torch.optim.lr_scheduler


def checks(recipe: Recipe) -> list[Check]:
    """Compare every stage of a recipe, at its published length, with both libraries' schedules."""
    found = []
    for stage in recipe.stages:
        ours = rates(stage, stage.steps(SAMPLES[recipe.data]))
        for name, theirs in library_rates(stage, ours.shape[1]).items():
            theirs = np.broadcast_to(theirs, ours.shape)
            measured = Measurement(
                layer=f"{recipe.name}: {stage.name}",
                reference=name,
                quantity=Quantity(Kind.LEARNING_RATE, step=ours.size),
                group=None,
                limit=STRUCTURE_UPDATE,
                elements=ours.size + tolerances.FEW,
                norm=1.0,
                structure=tolerances.furthest(
                    ours.ravel(), np.broadcast_to(theirs, ours.shape).ravel()
                ),
            )
            found += verdicts.judge("L4", [measured])
    return found


def rates(stage: Stage, steps: int) -> np.ndarray:
    """Return the recipe's learning rates, (epochs, steps) float64."""
    epochs = range(stage.first_epoch, stage.first_epoch + stage.epochs)
    factors = [[stage.schedule.factor(e, s, steps) for s in range(steps)] for e in epochs]
    return stage.optimizer.lr * np.array(factors)


def library_rates(stage: Stage, steps: int) -> dict[str, np.ndarray]:
    """Library -> (epochs, steps), or (epochs, 1) where the rate falls by epochs."""
    schedule, last = stage.schedule, stage.first_epoch + stage.epochs
    width = steps if schedule.per_step else 1
    torchs = np.array(of_torch(stage, width, last * width)).reshape(last, width)
    optaxs = of_optax(stage, width, last * width).reshape(last, width)
    return {
        "torch.optim.lr_scheduler": torchs[stage.first_epoch :],
        "optax": optaxs[stage.first_epoch :],
    }


def of_torch(stage: Stage, width: int, count: int) -> list[float]:
    """Return the rate at each of so many times, by stepping a scheduler."""
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=stage.optimizer.lr)
    scheduler = _scheduler(optimizer, stage.schedule, width)
    optimizer.step()
    for _ in range(stage.schedule.first):
        scheduler.step()
    found = []
    for _ in range(count):
        found.append(float(optimizer.param_groups[0]["lr"]))
        scheduler.step()
    return found


def _scheduler(optimizer: torch.optim.Optimizer, schedule: Schedule, width: int) -> Any:
    rise = schedule.warmup
    begin = rise if schedule.after_warmup else 0
    if not rise:
        return _main(optimizer, schedule, width, 0)
    warmup = LIBRARIES.LinearLR(optimizer, 1 / rise, 1.0, rise - 1)
    main = _main(optimizer, schedule, width, begin)
    if begin:
        return LIBRARIES.SequentialLR(optimizer, [warmup, main], [begin])
    return LIBRARIES.ChainedScheduler([warmup, main], optimizer)


def _main(optimizer: torch.optim.Optimizer, s: Schedule, width: int, begin: int) -> Any:
    if s.kind == "step":
        return LIBRARIES.StepLR(optimizer, s.every, s.gamma)
    if s.kind == "multistep":
        return LIBRARIES.MultiStepLR(optimizer, list(s.milestones), s.gamma)
    if s.kind == "poly":
        return LIBRARIES.PolynomialLR(optimizer, (s.length - begin) * width, s.power)
    if s.kind == "cosine":
        return LIBRARIES.CosineAnnealingLR(optimizer, (s.length - begin) * width)
    return LIBRARIES.ConstantLR(optimizer, 1.0)


def of_optax(stage: Stage, width: int, count: int) -> np.ndarray:
    """(count,) float64: the rate at each time, by a function of it."""
    s, lr = stage.schedule, stage.optimizer.lr
    begin = s.warmup if s.after_warmup else 0
    main = _optax(s, lr, width, begin)
    if begin:
        rise = optax.linear_schedule(lr / begin, lr, begin - 1)
        main = optax.join_schedules([rise, main], [begin])

    def rate(time: jax.Array) -> jax.Array:
        value = main(time + s.first)
        if s.warmup and not begin:
            value = value * optax.linear_schedule(1 / s.warmup, 1.0, s.warmup - 1)(time)
        return jnp.asarray(value, float)

    # Not compiled: XLA multiplies by 1 / 85000, which makes the power's base at the end of ICNet's
    # 85,000 steps -2e-16 instead of 0, and the last rate no number.
    with jax.enable_x64(True):
        return np.asarray(jax.vmap(rate)(jnp.arange(count)))


def _optax(s: Schedule, lr: float, width: int, begin: int) -> optax.Schedule:
    if s.kind == "step":
        return optax.exponential_decay(lr, s.every, s.gamma, staircase=True)
    if s.kind == "multistep":
        return optax.piecewise_constant_schedule(lr, dict.fromkeys(s.milestones, s.gamma))
    if s.kind == "poly":
        return optax.polynomial_schedule(lr, 0.0, s.power, (s.length - begin) * width)
    if s.kind == "cosine":
        return optax.cosine_decay_schedule(lr, (s.length - begin) * width)
    return optax.constant_schedule(lr)
