"""Faults injected in the port's loss.

One loss implements all of them, and a number among the targets selects one, so a network is
compiled only once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jax_impl.losses
import torch_impl.losses
from parity.capture.records import Loss
from parity.diagnosis.catalogue import Fault
from parity.ladder.port import Port
from parity.spec import draw, icnet_labels

VOID = 255
Injected = tuple[Fault, str, Callable[[], Port]]


def sound(loss: Loss, outputs: Any, *targets: Any) -> jax.Array:
    return loss(outputs, *targets)


def over_all(loss: Loss, outputs: Any, labels: Any, weights: Any) -> jax.Array:
    """Averages over void pixels too."""
    return loss(outputs, labels, weights) * (weights[labels] > 0).mean()


def over_number(loss: Loss, outputs: Any, labels: Any, weights: Any) -> jax.Array:
    """Divides by the fault of valid pixels, not by their weights' sum."""
    each = weights[labels]
    return loss(outputs, labels, weights) * each.sum() / (each > 0).sum()


def twice(loss: Loss, outputs: Any, *targets: Any) -> jax.Array:
    """Takes probabilities for logits."""
    return loss(jax.tree.map(jax.nn.softmax, outputs), *targets)


def wrong_axis(loss: Loss, outputs: Any, *targets: Any) -> jax.Array:
    """Takes the softmax over rows."""
    return loss(jax.tree.map(lambda o: jax.nn.log_softmax(o, axis=1), outputs), *targets)


def through_int8(loss: Loss, outputs: Any, labels: Any, weights: Any) -> jax.Array:
    """Reads 255 as -1, which JAX takes for the last class."""
    return loss(outputs, labels.astype(jnp.int8).astype(labels.dtype) % len(weights), weights)


def clamped(loss: Loss, outputs: Any, labels: Any, weights: Any) -> jax.Array:
    """Clamps 255 to the last class, as JAX does an index out of range."""
    return loss(outputs, jnp.minimum(labels, len(weights) - 1), weights)


def rounded(loss: Loss, outputs: Any, *targets: Any) -> jax.Array:
    """Takes the nearest labels, the second half of the targets."""
    return loss(outputs, *targets[len(targets) // 2 :])


def interpolated(loss: Loss, outputs: Any, *targets: Any) -> jax.Array:
    """Takes the interpolated labels, the first half of the targets."""
    return loss(outputs, *targets[: len(targets) // 2])


def interpolated_twice(loss: Loss, outputs: Any, *targets: Any) -> jax.Array:
    """Takes probabilities for logits, with the labels that are meant."""
    return twice(loss, outputs, *targets[: len(targets) // 2])


@dataclasses.dataclass(frozen=True)
class Switched:
    """A loss with all these faults; the last target is the fault of the one it makes."""

    loss: Loss
    faults: tuple[Callable[..., jax.Array], ...]

    def __call__(self, outputs: Any, *targets: Any) -> jax.Array:
        *rest, which = targets
        branches = [functools.partial(fault, self.loss) for fault in self.faults]
        return lax.switch(which, branches, outputs, *rest)


@dataclasses.dataclass(frozen=True)
class Plain:
    """The reference's loss, of so many of the targets."""

    loss: Loss
    count: int

    def __call__(self, outputs: Any, *targets: Any) -> Any:
        return self.loss(outputs, *targets[: self.count])


@functools.cache
def ignoring(loss: Loss) -> Loss:
    """Return a cross-entropy whose label 255 does not count."""
    return lambda outputs, labels, weights: loss(outputs, labels, weights, VOID)


def injected(port: Port) -> Iterator[Injected]:
    """Yield every fault that the port's loss can have: fault, description, faulty port."""
    if port.losses is None:
        return
    if port.losses[1] is jax_impl.losses.cross_entropy and len(port.targets) == 2:
        yield from _of_classes(port)
    elif port.losses[1] is getattr(jax_impl.losses, "icnet_loss", None):
        yield from _of_icnet(port)
    else:
        yield _inject(
            port, port.losses, (sound, twice), 1, Fault.SOFTMAX, "softmax twice", port.targets
        )


def _of_classes(port: Port) -> Iterator[Injected]:
    losses = (ignoring(torch_impl.losses.cross_entropy), ignoring(jax_impl.losses.cross_entropy))
    faults = (sound, over_all, over_number, through_int8, clamped, twice, wrong_axis)
    names = (
        (Fault.LOSS_MEAN, "mean over all pixels"),
        (Fault.LOSS_CLASS_WEIGHTS, "divided by the number"),
        (Fault.IGNORED_LABEL, "255 through int8"),
        (Fault.IGNORED_LABEL, "255 clamped"),
        (Fault.SOFTMAX, "softmax twice"),
        (Fault.SOFTMAX, "softmax over rows"),
    )
    for i, (fault, name) in enumerate(names, 1):
        targets = _with_void(*port.targets) if fault == Fault.IGNORED_LABEL else port.targets
        yield _inject(port, losses, faults, i, fault, name, targets)


def _of_icnet(port: Port) -> Iterator[Injected]:
    """Labels are made anew, for the ones that came with the port are of three sizes."""
    classes = 1 + max(int(t.max()) for t in port.targets)
    size = tuple(4 * n for n in port.targets[0].shape[1:])
    labels = draw.generator(port.seed, "faults/labels").integers(
        0, classes, (len(port.targets[0]), *size)
    )
    sizes = [t.shape[1:] for t in port.targets]
    pairs = [
        tuple(make(labels, s) for s in sizes)
        for make in (icnet_labels.published, icnet_labels.nearest)
    ]
    assert port.losses is not None
    faults = (interpolated, rounded, interpolated_twice)
    targets = (*pairs[0], *pairs[1])
    for i, fault, name in (
        (1, Fault.INTERPOLATED_LABELS, "nearest labels"),
        (2, Fault.SOFTMAX, "softmax twice"),
    ):
        yield _inject(port, port.losses, faults, i, fault, name, targets, len(sizes))


def _inject(
    port: Port,
    losses: tuple[Loss, Loss],
    faults: tuple[Callable[..., jax.Array], ...],
    which: int,
    fault: Fault,
    name: str,
    targets: tuple[np.ndarray, ...],
    count: int | None = None,
) -> Injected:
    count = len(targets) if count is None else count
    both = (Plain(losses[0], count), Switched(losses[1], faults))
    made = dataclasses.replace(port, losses=both, targets=(*targets, np.array(which)))
    return fault, name, lambda: made


def _with_void(labels: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of label 255, which do not count, and every class counting."""
    labels = labels.copy()
    labels[:, ::3, ::2] = VOID
    return labels, np.linspace(1, 2, len(weights), dtype=np.float32)
