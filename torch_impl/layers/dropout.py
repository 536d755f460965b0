"""Dropout with masks passed in by the caller; nothing is drawn here."""

from __future__ import annotations

import torch
from torch import nn


class Dropout(nn.Module):
    """Element dropout.

    Args:
        p: Probability of dropping an element.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Apply dropout in train mode; return `x` unchanged in eval mode.

        Args:
            x: (N, C, H, W).
            mask: True where an element is kept, in x's shape; not read in eval mode or where p is
                0.

        Raises:
            ValueError: In train mode with p above 0, the mask is missing or has another shape.
        """
        if not self.training or self.p == 0.0:
            return x
        expected = self.mask_shape(x)
        if mask is None or tuple(mask.shape) != expected:
            found = None if mask is None else tuple(mask.shape)
            raise ValueError(
                f"dropout with p={self.p} in train mode needs a mask {expected}, got {found}"
            )
        return x * self.spread(mask.to(x.dtype) / (1.0 - self.p))

    def mask_shape(self, x: torch.Tensor) -> tuple[int, ...]:
        return tuple(x.shape)

    def spread(self, mask: torch.Tensor) -> torch.Tensor:
        return mask


class Dropout2d(Dropout):
    """Channel dropout: the mask is (N, C), true where a channel is kept."""

    def mask_shape(self, x: torch.Tensor) -> tuple[int, ...]:
        return (x.shape[0], x.shape[1])

    def spread(self, mask: torch.Tensor) -> torch.Tensor:
        return mask[:, :, None, None]
