"""Pooling and unpooling."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

MaxPool2d = nn.MaxPool2d
MaxUnpool2d = nn.MaxUnpool2d
AdaptiveAvgPool2d = nn.AdaptiveAvgPool2d
AvgPool2d = nn.AvgPool2d


class MaxPool2dSame(nn.Module):
    """Maxima of windows, padded as MindSpore's `same`: a side of n gives ceil(n / stride).

    If the number of rows to pad is odd, the larger half is added at the bottom. MindSpore 2.x,
    `nn.MaxPool2d`.
    """

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H', W')."""
        k, s = self.kernel_size, self.stride
        totals = [max((-(-n // s) - 1) * s + k - n, 0) for n in x.shape[2:]]
        (top, bottom), (left, right) = ((t // 2, t - t // 2) for t in totals)
        x = functional.pad(x, (left, right, top, bottom), value=-torch.inf)
        return functional.max_pool2d(x, k, s)
