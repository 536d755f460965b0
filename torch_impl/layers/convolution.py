"""Convolutions; kernels are OIHW, a transposed convolution's IOHW."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

Conv2d = nn.Conv2d
ConvTranspose2d = nn.ConvTranspose2d


class ConvTranspose2dSame(nn.ConvTranspose2d):
    """Transposed convolution to stride times the size, padded as MindSpore's `same`.

    The full result has kernel - stride superfluous rows; the smaller half of them is cut off at the
    top. With a 3x3 kernel and stride 2, the output is therefore shifted one pixel down and to the
    right, compared with padding 1 and output padding 1. MindSpore 2.x, `nn.Conv2dTranspose`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, bias=bias)
        if kernel_size < stride:
            raise NotImplementedError(f"kernel {kernel_size} with stride {stride} leaves gaps")
        self.cut = (kernel_size - stride) // 2

    def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """(N, in, H, W) to (N, out, stride * H, stride * W).

        Raises:
            ValueError: `output_size` is given and another.
        """
        height, width = (s * n for s, n in zip(self.stride, x.shape[2:], strict=True))
        if output_size is not None and tuple(output_size) != (height, width):
            raise ValueError(f"output_size is {output_size}, expected {(height, width)}")
        y = functional.conv_transpose2d(x, self.weight, self.bias, self.stride)
        return y[:, :, self.cut : self.cut + height, self.cut : self.cut + width]
