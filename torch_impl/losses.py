"""Losses in PyTorch, with the same names as in `jax_impl/losses.py`; logits are NCHW here."""

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
        labels: (N, H, W) integers; `ignore_index` marks pixels to ignore.
        class_weights: (classes,), ones if not given. The mean is sum(w * nll) / sum(w).
        ignore_index: The label of pixels to ignore.
        normalizer: Maps the sum of weights to the divisor of the summed loss; by default the sum
            itself. With several devices, the divisor may depend on all of them.

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
    targets: Sequence[torch.Tensor],
    class_weights: torch.Tensor | None = None,
    normalizer: Normalizer | None = None,
) -> torch.Tensor:
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
