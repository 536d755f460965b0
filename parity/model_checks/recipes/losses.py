"""L4: the recipes' loss functions, with ignored pixels and class weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import torch

import jax_impl.losses
import torch_impl.losses
from parity.capture.records import NETWORK
from parity.ladder import tolerances, verdicts
from parity.ladder.tolerances import STRUCTURE_FORWARD, STRUCTURE_GRADIENT, Measurement, difference
from parity.report.quantity import Kind, Quantity
from parity.report.report import Check
from parity.spec import draw, icnet_labels
from parity.spec.training.losses import Loss

CLASSES, SIZE = 7, (24, 40)
IGNORED = 255
# Name -> the loss, whether classes weigh, and whether one of them weighs nothing.
VARIANTS: dict[str, tuple[Loss, bool, bool]] = {
    "cross-entropy": (Loss(), False, False),
    "cross-entropy, classes weighted": (Loss(), True, False),
    "cross-entropy, void a class of weight 0": (Loss(), True, True),
    "cross-entropy, pixels ignored": (Loss(ignore_index=IGNORED), False, False),
    "cross-entropy, pixels ignored, classes weighted": (Loss(ignore_index=IGNORED), True, False),
    "ICNet's, labels as published": (Loss("icnet", ignore_index=-1), False, False),
    "ICNet's, nearest labels": (Loss("icnet", ignore_index=-1, labels="nearest"), False, False),
}


def checks() -> list[Check]:
    """Compare every variant's loss, and its gradient for the logits, in float64."""
    found: list[Measurement] = []
    for name, (loss, weighted, void) in VARIANTS.items():
        outputs, targets = drawn(loss)
        weights = np.linspace(1, 3, CLASSES) if weighted else None
        if weights is not None and void:
            weights[-1] = 0
        found += _compared(name, loss, outputs, targets, weights)
    return verdicts.judge("L4", found)


def drawn(loss: Loss) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Logits, NHWC in float64, and labels some of which do not count."""
    rng = draw.generator(0, "losses")
    labels = rng.integers(0, CLASSES, (2, *SIZE))
    if loss.ignore_index is not None:
        labels = np.where(rng.random(labels.shape) < 0.2, loss.ignore_index, labels)
    sizes, targets = [SIZE], [labels]
    if loss.kind == "icnet":
        sizes = [SIZE, *((SIZE[0] // n, SIZE[1] // n) for n in (2, 4, 8))]
        targets = [getattr(icnet_labels, loss.labels)(labels, size) for size in sizes[1:]]
    outputs = tuple(rng.normal(0, 2, (2, *size, CLASSES)) for size in sizes)
    return outputs, tuple(target.astype(np.int32) for target in targets)


def _compared(
    name: str,
    loss: Loss,
    outputs: tuple[np.ndarray, ...],
    targets: tuple[np.ndarray, ...],
    weights: np.ndarray | None,
) -> Iterator[Measurement]:
    theirs = of_torch(loss, outputs, targets, weights)
    ours = of_jax(loss, outputs, targets, weights)
    for i, (reference, port) in enumerate(zip(theirs, ours, strict=True)):
        yield Measurement(
            layer=NETWORK,
            reference=NETWORK,
            quantity=Quantity(Kind.LOGITS_GRADIENT, name, i - 1)
            if i
            else Quantity(Kind.LOSS_FUNCTION, name),
            group=None,
            limit=STRUCTURE_GRADIENT if i else STRUCTURE_FORWARD,
            elements=reference.size + tolerances.FEW,
            norm=tolerances.norm(reference),
            structure=difference(port, reference),
        )


def of_torch(
    loss: Loss,
    outputs: tuple[np.ndarray, ...],
    targets: tuple[np.ndarray, ...],
    weights: np.ndarray | None,
) -> list[np.ndarray]:
    """Return the loss, and its gradient for each of the logits, NHWC."""
    logits = [torch.tensor(o.transpose(0, 3, 1, 2).copy(), requires_grad=True) for o in outputs]
    given: Any = logits if loss.kind == "icnet" else logits[0]
    labels = [torch.tensor(target) for target in targets]
    classes = None if weights is None else torch.tensor(weights)
    value = torch_impl.losses.training_loss(loss, given, labels, classes)
    value.backward()
    pulled = [torch.zeros_like(x) if x.grad is None else x.grad for x in logits]
    return [value.detach().numpy(), *(g.numpy().transpose(0, 2, 3, 1) for g in pulled)]


def of_jax(
    loss: Loss,
    outputs: tuple[np.ndarray, ...],
    targets: tuple[np.ndarray, ...],
    weights: np.ndarray | None,
) -> list[np.ndarray]:
    """Return the loss and its gradients in JAX."""

    def value(logits: Any, labels: Any, classes: Any) -> jax.Array:
        given = logits if loss.kind == "icnet" else logits[0]
        return jax_impl.losses.training_loss(loss, given, labels, classes)

    with jax.enable_x64(True):
        found, pulled = jax.jit(jax.value_and_grad(value))(outputs, targets, weights)
        return [np.asarray(found), *map(np.asarray, pulled)]
