"""Losses in JAX, with the same names as in `torch_impl/losses.py`; logits are NHWC here."""

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
        labels: (N, H, W) integers; `ignore_index` marks pixels to ignore. Any other value that is
            not a class makes the loss NaN: compiled code cannot raise.
        class_weights: (classes,), ones if not given. The mean is sum(w * nll) / sum(w).
        ignore_index: The label of pixels to ignore.
        normalizer: Maps the sum of weights to the divisor of the summed loss; by default the sum
            itself. With several devices, the divisor may depend on all of them.
    """
    n_classes = logits.shape[-1]
    if class_weights is None:
        class_weights = jnp.ones(n_classes, logits.dtype)
    counts = labels != ignore_index
    known = (labels >= 0) & (labels < n_classes)
    target = jnp.where(known, labels, 0)
    # Not `take_along_axis`, whose gradient is a scatter: a slow loop on CPUs.
    of_target = jnp.arange(n_classes) == target[..., None]
    log_p = jnp.where(of_target, jax.nn.log_softmax(logits), 0).sum(axis=-1)
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
    """ICNet's published loss: cross-entropy at 1/4, plus 0.4 of it at 1/8 and at 1/16.

    Args:
        outputs: ICNet's four outputs; the first, of the image's size, is not used.
        labels4: (N, H, W) integers at the size of the second output, -1 marks pixels to ignore.
            `parity.spec.icnet_labels` makes them.
        labels8: Labels at the size of the third output.
        labels16: Labels at the size of the fourth output.
        auxiliary: The factor of the last two losses.
        normalizer: The divisor of each of the three; see `cross_entropy`.
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
    """Return the loss that a recipe asks for, a scalar.

    Args:
        loss: The recipe's loss.
        outputs: The network's outputs.
        targets: The targets of a `parity.spec.training.trainer.Batch`.
        class_weights: (classes,), for cross-entropy; ones if not given.
        normalizer: The divisor of the loss; see `cross_entropy`.
    """
    if loss.kind == "icnet":
        labels4, labels8, labels16 = targets
        return icnet_loss(outputs, labels4, labels8, labels16, loss.auxiliary, normalizer)
    (labels,) = targets
    ignored = -100 if loss.ignore_index is None else loss.ignore_index
    return cross_entropy(outputs, labels, class_weights, ignored, normalizer)
