"""Losses of the PyTorch side. `jax_impl/losses.py` answers name by name; logits are NCHW here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from parity.spec.training.losses import Loss

Normalizer = Callable[[torch.Tensor], torch.Tensor]


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor | None = None,
    ignore_index: int = -100,
    normalizer: Normalizer | None = None,
) -> torch.Tensor:
    """Softmax cross-entropy, averaged over pixels by the weight of their class.

    Args:
        logits: (N, classes, H, W).
        labels: (N, H, W) integers; `ignore_index` where a pixel does not count.
        class_weights: (classes,), ones if not given. The mean is sum(w * nll) / sum(w).
        ignore_index: The label that does not count.
        normalizer: What the sum of weighted losses is divided by, of the sum of weights; the sum
            itself if not given. Several devices have others.

    Raises:
        IndexError: A label that is neither a class nor `ignore_index`.
    """
    labels = labels.long()
    if normalizer is None:
        return functional.cross_entropy(
            logits, labels, weight=class_weights, ignore_index=ignore_index
        )
    total = functional.cross_entropy(
        logits, labels, weight=class_weights, ignore_index=ignore_index, reduction="sum"
    )
    counted = labels[labels != ignore_index]
    weights = logits.new_ones(logits.shape[1]) if class_weights is None else class_weights
    return total / normalizer(weights[counted].sum())


def icnet_loss(
    outputs: Sequence[torch.Tensor],
    labels4: torch.Tensor,
    labels8: torch.Tensor,
    labels16: torch.Tensor,
    auxiliary: float = 0.4,
    normalizer: Normalizer | None = None,
) -> torch.Tensor:
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
    targets: Sequence[torch.Tensor],
    class_weights: torch.Tensor | None = None,
    normalizer: Normalizer | None = None,
) -> torch.Tensor:
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
