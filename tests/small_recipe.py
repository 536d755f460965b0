"""A small recipe in which everything happens that a checkpoint must bring back, and its data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from parity.spec.augmentation import Flip, RatioCrop, Resize
from parity.spec.models import MODELS
from parity.spec.training.losses import Loss
from parity.spec.training.optimizers import Optimizer
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.schedules import Schedule

MODEL = "enet-least"
BLOCKS = ("downsample1_0", "regular1_1", "upsample5_0")
SIZE = (20, 28)
TRAIN, VAL = 6, 2  # images
# `parity` in a process that knows the network, which is in no list.
PROGRAM = (
    "import sys; from tests import small_recipe; small_recipe.recipe();"
    "from parity.cli import main; sys.exit(main())"
)


def recipe(precision: str = "fp32", devices: int = 1) -> Recipe:
    """Twelve steps in which everything happens that a checkpoint must bring back.

    Args:
        precision: See `Recipe`.
        devices: Among which a batch of two, or as many as there are, can be divided.
    """
    enet: Any = MODELS["enet"]
    blocks = tuple(block for block in enet.blocks if block.name in BLOCKS)
    MODELS[MODEL] = dataclasses.replace(enet, blocks=blocks)
    first = Stage(
        name="first",
        model=MODEL,
        epochs=2,
        optimizer=Optimizer("sgd", lr=0.01, weight_decay=1e-4),
        schedule=Schedule("step", every=1, gamma=0.5),
        loss=Loss(),
        augmentation=(RatioCrop(1.0, 1.3), Resize(SIZE), Flip()),
        batch=max(2, devices),
        dropout=(0.2, 0.4),
    )
    second = dataclasses.replace(
        first,
        name="second",
        optimizer=Optimizer("adam", lr=1e-3, decay="not-norms", weight_decay=1e-4),
        schedule=Schedule("poly", length=2, per_step=True),
        dropout=(0.1, 0.3),
    )
    return Recipe(
        name="kills",
        about="",
        data="cityscapes",
        stages=(first, second),
        labels="void-last",
        size=SIZE,
        precision=precision,
        level="O2",
        loss_scale="dynamic",
    )


def scenes(root: Path) -> Path:
    """A small data set."""
    from parity.data.scenes import write

    write(root, 1, TRAIN, 24, 48, "train")
    write(root, 2, VAL, 24, 48)
    return root
