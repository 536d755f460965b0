"""One step of training as `parity train` makes it: forward, backward, update."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from parity.model_checks.networks import TASKS
from parity.spec import draw
from parity.spec.models import MODELS
from parity.spec.training.losses import Loss
from parity.spec.training.optimizers import Optimizer
from parity.spec.training.trainer import Batch, Trainer
from weights_convert import to_jax

SIDES = ("torch", "jax")
NAMES = ("torch", "torch.compile", "jax")
RATE = 5e-4  # of Adam


def trainers(
    names: tuple[str, ...], model: str, size: tuple[int, int], batch: int, threads: int
) -> dict[str, Callable[[], object]]:
    """Return functions that run one training step of each trainer on the same batch.

    Args:
        names: Some of `NAMES`.
        model: The network, a key of `parity.spec.models.MODELS`.
        size: Height and width, in pixels.
        batch: Number of images.
        threads: PyTorch's.
    """
    import torch

    torch.set_num_threads(threads)
    made: dict[str, Any] = {name: trainer(name.partition(".")[0], model) for name in names}
    if "torch.compile" in made:
        made["torch.compile"].compile()
    return steps(made, model, size, batch)


def steps(
    trainers: dict[str, Trainer], model: str, size: tuple[int, int], batch: int
) -> dict[str, Callable[[], object]]:
    """Return functions that run one step of each given trainer on the same batch."""
    given = batch_of(model, size, batch)
    return {name: functools.partial(each.step, given, RATE) for name, each in trainers.items()}


def batch_of(model: str, size: tuple[int, int], batch: int) -> Batch:
    """Return a batch of random images, labels and masks."""
    config, rng = MODELS[model], draw.generator(0, "bench")
    images = rng.random((batch, *size, 3), np.float32)
    targets = TASKS[config.family](config, rng, images.shape[:3])[1]
    icnet = config.family == "icnet"
    targets = targets if icnet else targets[:1]  # without class weights
    masks = draw.dropout_masks(config, size, 0, 0, 0, range(batch))
    return Batch(images, tuple(t.astype("int32") for t in targets), masks, np.arange(batch))


def trainer(side: str, model: str, **options: Any) -> Trainer:
    """Build one side's trainer; its options are `parallel` and `group`."""
    config = MODELS[model]
    arrays = draw.weights(config, 0)
    loss = Loss("icnet" if config.family == "icnet" else "cross_entropy")
    own = arrays if side == "torch" else to_jax(config, arrays)
    made: Any = importlib.import_module(f"{side}_impl.train").Trainer
    return made(config, Optimizer("adam", RATE, 2e-4), loss, own, **options)
