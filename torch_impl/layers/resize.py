"""Resizing."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Resize(nn.Module):
    """Bilinear interpolation to a size, without antialiasing.

    Args:
        align_corners: The corners' pixels keep their places, else the image's corners.
    """

    def __init__(self, align_corners: bool = False) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H', W')."""
        return functional.interpolate(
            x, size, mode="bilinear", align_corners=self.align_corners, antialias=False
        )


class Nearest(nn.Module):
    """Repetition of pixels to a size: pixel i of n' is pixel floor(i n / n') of n."""

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H', W')."""
        return functional.interpolate(x, size, mode="nearest")


class BilinearX2(nn.Module):
    """Bilinear interpolation to twice the size: pixel i lies at i / 2, the last one is repeated.

    Equals MindSpore's `ResizeBilinear` with neither `align_corners` nor `half_pixel_centers`.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, 2 H, 2 W)."""
        for axis in (2, 3):
            after = torch.cat((x.narrow(axis, 1, x.shape[axis] - 1), x.narrow(axis, -1, 1)), axis)
            x = torch.stack((x, (x + after) / 2), axis + 1).flatten(axis, axis + 1)
        return x
