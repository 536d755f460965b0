"""Convolutions; kernels are OIHW, a transposed convolution's IOHW."""

from __future__ import annotations

from torch import nn

Conv2d = nn.Conv2d
ConvTranspose2d = nn.ConvTranspose2d
