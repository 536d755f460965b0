"""Losses of the JAX side. `torch_impl/losses.py` answers name by name; logits are NHWC here."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    class_weights: jax.Array | None = None,
    ignore_index: int = -100,
) -> jax.Array:
    """Softmax cross-entropy, averaged over pixels by the weight of their class.

    Args:
        logits: (N, H, W, classes).
        labels: (N, H, W) integers; `ignore_index` where a pixel does not count. Any other value
            that is not a class makes the loss NaN: compiled code cannot raise.
        class_weights: (classes,), ones if not given. The mean is sum(w * nll) / sum(w).
        ignore_index: The label that does not count.
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
    return -jnp.where(weight == 0, 0, weight * log_p).sum() / weight.sum()


def icnet_loss(
    outputs: Sequence[jax.Array], labels4: jax.Array, labels8: jax.Array, labels16: jax.Array
) -> jax.Array:
    """ICNet's loss as published: cross-entropy at 1/4, and 0.4 of it at 1/8 and at 1/16.

    Args:
        outputs: ICNet's four; the first, of the image's size, does not count.
        labels4: (N, H, W) integers at the size of the second output, -1 where a pixel does not
            count. `parity.spec.data.icnet_labels` makes them.
        labels8: The same for the third.
        labels16: The same for the fourth.
    """
    _, *logits = outputs
    main, *auxiliary = (
        cross_entropy(a, b, ignore_index=-1)
        for a, b in zip(logits, (labels4, labels8, labels16), strict=True)
    )
    return main + 0.4 * sum(auxiliary)
