"""Losses of the PyTorch side. `jax_impl/losses.py` answers name by name; logits are NCHW here."""

from __future__ import annotations

import torch
from torch.nn import functional


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor | None = None,
    ignore_index: int = -100,
) -> torch.Tensor:
    """Softmax cross-entropy, averaged over pixels by the weight of their class.

    Args:
        logits: (N, classes, H, W).
        labels: (N, H, W) integers; `ignore_index` where a pixel does not count.
        class_weights: (classes,), ones if not given. The mean is sum(w * nll) / sum(w).
        ignore_index: The label that does not count.

    Raises:
        IndexError: A label that is neither a class nor `ignore_index`.
    """
    return functional.cross_entropy(
        logits, labels.long(), weight=class_weights, ignore_index=ignore_index
    )
