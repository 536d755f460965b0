"""Both sides' trainers of a small network, and batches for them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

import jax_impl.train
import torch_impl.train
from parity.model_checks.small_networks import small
from parity.spec import draw, icnet_labels
from parity.spec.models import Config
from parity.spec.training.losses import Loss
from parity.spec.training.optimizers import Optimizer
from parity.spec.training.trainer import Batch, Snapshot
from weights_convert import naming, to_jax

Arrays = dict[str, np.ndarray]
SIDES = ("torch", "jax")
VOID = 255
ADAM = Optimizer("adam", 5e-4, 2e-4)
SGD = Optimizer("sgd", 0.01, 5e-4)
TRAINERS: dict[str, Any] = {"torch": torch_impl.train.Trainer, "jax": jax_impl.train.Trainer}


def loss_of(config: Config) -> Loss:
    if config.family == "icnet":
        return Loss("icnet", ignore_index=-1)
    return Loss(ignore_index=VOID)


def trainer(
    side: str,
    model: str,
    optimizer: Optimizer,
    precision: str = "fp32",
    louder: float = 1.0,
    **options: Any,
) -> Any:
    """One that begins with the same weights whenever it is made.

    Args:
        side: One of `SIDES`.
        model: Whose small network.
        optimizer: What makes its steps.
        precision: See `Trainer`.
        louder: What the scale of a batch norm `bn1` is multiplied by, so that gradients are large.
        options: See `Trainer`.
    """
    config = small(model, least=True)[0]
    arrays = draw.weights(config, 0)
    if louder != 1.0:
        arrays["bn1.weight"] *= np.float32(louder)
    own = arrays if side == "torch" else to_jax(config, arrays)
    loss, weights = loss_of(config), np.linspace(1, 2, config.num_classes)
    weights = None if loss.kind == "icnet" else weights
    return TRAINERS[side](config, optimizer, loss, own, weights, precision, **options)


@functools.cache
def batch(model: str, i: int, n: int = 2) -> Batch:
    """The i-th: n images, labels of which some do not count, and masks."""
    config: Any
    config, size = small(model, least=True)
    rng, classes = draw.generator(0, "training", i), config.num_classes
    images = rng.random((n, *size, 3), np.float32)
    targets: tuple[np.ndarray, ...]
    if config.family == "icnet":
        labels, sizes = rng.integers(-1, classes, (n, *size)), config.output_sizes(*size)[1:]
        targets = tuple(icnet_labels.published(labels, s) for s in sizes)
    elif hasattr(config, "output_size"):
        labels = rng.integers(0, classes, (n, *config.output_size(*size)))
        targets = (np.where(rng.random(labels.shape) < 0.1, VOID, labels),)
    else:
        targets = (rng.integers(0, classes, n),)
    masks = draw.dropout_masks(config, size, 0, 0, i, range(n))
    return Batch(images, tuple(t.astype(np.int32) for t in targets), masks, np.arange(n))


def published(side: str, model: str, arrays: Arrays) -> Arrays:
    """Published key -> array of PyTorch's shape, of some of a side's arrays."""
    if side == "torch":
        return arrays
    names = naming.names(small(model, least=True)[0], "jax")
    return {names[n][0]: names[n][1].inverse().array(a) for n, a in arrays.items()}


def all_of(side: str, model: str, snapshot: Snapshot) -> Arrays:
    """Everything in a snapshot, by published names; slots before their parameter's."""
    slots = {
        f"{slot} {key}": array
        for slot, arrays in snapshot.slots.items()
        for key, array in published(side, model, arrays).items()
    }
    return published(side, model, snapshot.arrays) | slots


def same(a: Snapshot, b: Snapshot) -> bool:
    """Bit for bit."""
    pairs = [(a.arrays, b.arrays), *((a.slots[s], b.slots[s]) for s in a.slots)]
    return (
        a.slots.keys() == b.slots.keys()
        and (a.step, a.scale, a.good) == (b.step, b.scale, b.good)
        and all(x.keys() == y.keys() for x, y in pairs)
        and all(x[k].dtype == y[k].dtype for x, y in pairs for k in x)
        and all(x[k].tobytes() == y[k].tobytes() for x, y in pairs for k in x)
    )
