"""Scaling a recipe down: a small network, tiny images, and proportionally fewer epochs.

Only sizes are reduced. Each stage, operation, loss, weight rule, optimizer and drop of the rate is
kept.
"""

from __future__ import annotations

import dataclasses
import math

from parity.data.pipeline import training_size
from parity.model_checks.recipes.scaled_down_stage import SmallStage
from parity.model_checks.small_networks import small
from parity.spec.augmentation import Crop, Operation, Resize, ShortSide
from parity.spec.models import MODELS
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.schedules import Schedule

STEPS = 50
BATCH = 2
PER_EPOCH = 3  # steps
LEAST = 2  # epochs of a stage
ICNET = (64, 96)  # the height and width of its images; a small network's own are larger

Size = tuple[int, int]


def scaled_down(
    recipe: Recipe, steps: int = STEPS, precision: str = "fp64", devices: int = 1
) -> Recipe:
    """Scale a recipe down, to at least this many steps.

    Args:
        recipe: A published one.
        steps: Number of steps of all stages.
        precision: The precision in which the networks compute.
        devices: Settings for this many devices are applied, except for the batch.
    """
    recipe = recipe.on(devices)
    total = math.ceil(steps / PER_EPOCH)
    shares = [max(LEAST, round(total * s.epochs / recipe.epochs)) for s in recipe.stages]
    shares[-1] = max(LEAST, total - sum(shares[:-1]))
    stages = tuple(_stage(recipe, s, n) for s, n in zip(recipe.stages, shares, strict=True))
    return dataclasses.replace(
        recipe, stages=stages, size=size_of(recipe.stages[-1].model), precision=precision
    )


def size_of(model: str) -> Size:
    """Height and width of the images of a model's small network."""
    if MODELS[model].family == "icnet":
        return ICNET
    height, width = small(model, least=True)[1]  # recipes are of networks of images
    return height, width


def samples(recipe: Recipe) -> int:
    """Return how many samples the data set of a scaled-down recipe has."""
    return PER_EPOCH * BATCH + any(stage.drop_last for stage in recipe.stages)


def _stage(recipe: Recipe, stage: Stage, epochs: int) -> Stage:
    size, share = size_of(stage.model), epochs / stage.epochs
    fields = {f.name: getattr(stage, f.name) for f in dataclasses.fields(stage)}
    scale = min(size) / min(training_size(recipe, stage))
    return SmallStage(
        **fields
        | {
            "epochs": epochs,
            "batch": BATCH,
            "distributed": dataclasses.replace(stage.distributed, batch_per_device=None),
            "first_epoch": round(stage.first_epoch * share),
            "schedule": _schedule(stage, epochs, share),
            "augmentation": tuple(_operation(x, size, scale) for x in stage.augmentation),
            "network": small(stage.model, least=True)[0],
        }
    )


def _schedule(stage: Stage, epochs: int, share: float) -> Schedule:
    schedule, first = stage.schedule, round(stage.first_epoch * share)
    return dataclasses.replace(
        schedule,
        every=max(1, round(schedule.every * share)) if schedule.every else 0,
        milestones=tuple(max(1, round(m * share)) for m in schedule.milestones),
        length=max(first + epochs, round(schedule.length * share)) if schedule.length else 0,
        warmup=max(1, round(schedule.warmup * share)) if schedule.warmup else 0,
    )


def _operation(operation: Operation, size: Size, scale: float) -> Operation:
    if isinstance(operation, Resize | Crop):
        return dataclasses.replace(operation, size=size)
    if isinstance(operation, ShortSide):
        ends = (max(1, round(n * scale)) for n in (operation.low, operation.high))
        return ShortSide(*ends)
    return operation
