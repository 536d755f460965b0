"""Losses of the JAX side. `torch_impl/losses.py` answers name by name; logits are NHWC here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from parity.spec.training.losses import Loss

Normalizer = Callable[[jax.Array], jax.Array]


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    class_weights: jax.Array | None = None,
    ignore_index: int = -100,
    normalizer: Normalizer | None = None,
) -> jax.Array:
    """Softmax cross-entropy, averaged over pixels by the weight of their class.

    Args:
        logits: (N, H, W, classes).
        labels: (N, H, W) integers; `ignore_index` where a pixel does not count. Any other value
            that is not a class makes the loss NaN: compiled code cannot raise.
        class_weights: (classes,), ones if not given. The mean is sum(w * nll) / sum(w).
        ignore_index: The label that does not count.
        normalizer: What the sum of weighted losses is divided by, of the sum of weights; the sum
            itself if not given. Several devices have others.
    """
    n_classes = logits.shape[-1]
    if class_weights is None:
        class_weights = jnp.ones(n_classes, logits.dtype)
    counts = labels != ignore_index
    known = (labels >= 0) & (labels < n_classes)
    target = jnp.where(known, labels, 0)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], axis=-1)[..., 0]
    weight = jnp.where(counts, jnp.where(known, class_weights[target], jnp.nan), 0)
    # Where nothing counts, log_p may be anything: it must not reach the sum.
    total = weight.sum() if normalizer is None else normalizer(weight.sum())
    return -jnp.where(weight == 0, 0, weight * log_p).sum() / total


def icnet_loss(
    outputs: Sequence[jax.Array],
    labels4: jax.Array,
    labels8: jax.Array,
    labels16: jax.Array,
    auxiliary: float = 0.4,
    normalizer: Normalizer | None = None,
) -> jax.Array:
    """ICNet's loss as published: cross-entropy at 1/4, and 0.4 of it at 1/8 and at 1/16.

    Args:
        outputs: ICNet's four; the first, of the image's size, does not count.
        labels4: (N, H, W) integers at the size of the second output, -1 where a pixel does not
            count. `parity.spec.icnet_labels` makes them.
        labels8: The same for the third.
        labels16: The same for the fourth.
        auxiliary: What the last two are multiplied by.
        normalizer: Of each of the three; see `cross_entropy`.
    """
    _, *logits = outputs
    main, *others = (
        cross_entropy(a, b, ignore_index=-1, normalizer=normalizer)
        for a, b in zip(logits, (labels4, labels8, labels16), strict=True)
    )
    return main + auxiliary * sum(others)


def training_loss(
    loss: Loss,
    outputs: Any,
    targets: Sequence[jax.Array],
    class_weights: jax.Array | None = None,
    normalizer: Normalizer | None = None,
) -> jax.Array:
    """The loss that a recipe asks for.

    Args:
        loss: Which.
        outputs: Of the network.
        targets: As `parity.spec.training.trainer.Batch` has them.
        class_weights: (classes,), ones if not given; of cross-entropy.
        normalizer: See `cross_entropy`.
    """
    if loss.kind == "icnet":
        labels4, labels8, labels16 = targets
        return icnet_loss(outputs, labels4, labels8, labels16, loss.auxiliary, normalizer)
    (labels,) = targets
    ignored = -100 if loss.ignore_index is None else loss.ignore_index
    return cross_entropy(outputs, labels, class_weights, ignored, normalizer)
