"""Layers of the PyTorch side. `jax_impl/layers.py` answers name by name; arrays are NCHW here."""

from __future__ import annotations

import torch
from torch import nn

Conv2d = nn.Conv2d
ConvTranspose2d = nn.ConvTranspose2d
BatchNorm2d = nn.BatchNorm2d
PReLU = nn.PReLU
ReLU = nn.ReLU
MaxPool2d = nn.MaxPool2d
MaxUnpool2d = nn.MaxUnpool2d
Sequential = nn.Sequential


class Dropout2d(nn.Module):
    """Channel dropout that is told which channels to drop; it draws nothing itself.

    Args:
        p: Probability of dropping a channel.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Drop channels in train mode, pass `x` on in eval mode.

        Args:
            x: (N, C, H, W).
            mask: (N, C), true where a channel is kept; not read in eval mode or where p is 0.

        Raises:
            ValueError: Train mode, p above 0 and no mask.
        """
        if not self.training or self.p == 0.0:
            return x
        if mask is None:
            raise ValueError(f"dropout with p={self.p} in train mode needs a mask, got None")
        return x * (mask.to(x.dtype) / (1.0 - self.p))[:, :, None, None]
