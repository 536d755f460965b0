"""ICNet, the network of liminn/ICNet-pytorch; parameter names are the published ones.

`jax_impl/models/icnet.py` mirrors this file. Shapes are (N, C, H, W); every convolution is
without bias, every resize bilinear with aligned corners.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from parity.spec.networks.icnet import EXPANSION, POOL_BINS, ICNetConfig
from torch_impl import layers
from torch_impl.models.resnet import ResNet

Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class ConvBNReLU(nn.Module):
    """A 3x3 that halves H and W, rounding up."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = layers.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False)
        self.bn = layers.BatchNorm2d(out_channels)
        self.relu = layers.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn(self.conv(x)))


class PyramidPooling(nn.Module):
    """The sum of a map and of its means over a pyramid of windows."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = layers.ModuleList(layers.AdaptiveAvgPool2d(bins) for bins in POOL_BINS)
        self.resize = layers.Resize(align_corners=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size, y = (x.shape[2], x.shape[3]), x
        for pool in self.pools:
            y = y + self.resize(pool(x), size)
        return y


class CascadeFeatureFusion(nn.Module):
    """A small map brought to the size of a large one, and added; and its own logits."""

    def __init__(self, low_channels: int, high_channels: int, channels: int, classes: int) -> None:
        super().__init__()
        self.resize = layers.Resize(align_corners=True)
        self.conv_low = layers.Sequential(
            layers.Conv2d(low_channels, channels, 3, padding=2, dilation=2, bias=False),
            layers.BatchNorm2d(channels),
        )
        self.conv_high = layers.Sequential(
            layers.Conv2d(high_channels, channels, 1, bias=False), layers.BatchNorm2d(channels)
        )
        self.conv_low_cls = layers.Conv2d(channels, classes, 1, bias=False)

    def forward(self, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        low = self.conv_low(self.resize(low, (high.shape[2], high.shape[3])))
        fused = functional.relu(low + self.conv_high(high))
        return fused, self.conv_low_cls(low)


class Head(nn.Module):
    """Turns the three branches into four maps of logits."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        c = 2 * width
        self.cff_12 = CascadeFeatureFusion(c, width, c, classes)
        self.cff_24 = CascadeFeatureFusion(8 * EXPANSION * width, 2 * EXPANSION * width, c, classes)
        self.resize = layers.Resize(align_corners=True)
        self.conv_cls = layers.Conv2d(c, classes, 1, bias=False)

    def forward(self, sub1: torch.Tensor, sub2: torch.Tensor, sub4: torch.Tensor) -> Outputs:
        height, width = sub1.shape[2], sub1.shape[3]
        fused, logits16 = self.cff_24(sub4, sub2)  # (N, 128, H/16, W/16)
        fused, logits8 = self.cff_12(fused, sub1)  # (N, 128, H/8, W/8)
        logits4 = self.conv_cls(self.resize(fused, (2 * height, 2 * width)))
        logits = self.resize(logits4, (8 * height, 8 * width))
        return logits, logits4, logits8, logits16


class ICNet(nn.Module):
    """ICNet: normalised images (N, 3, H, W) to logits at 1, 1/4, 1/8 and 1/16; sides at least 4.

    The first logits are of the image's size where that is a multiple of 8, else larger.
    """

    def __init__(self, config: ICNetConfig) -> None:
        super().__init__()
        self.config = config
        w = config.width
        self.pretrained = ResNet(config)
        self.conv_sub1 = layers.Sequential(
            ConvBNReLU(3, w // 2), ConvBNReLU(w // 2, w // 2), ConvBNReLU(w // 2, w)
        )
        self.resize = layers.Resize(align_corners=True)
        self.ppm = PyramidPooling()
        self.head = Head(w, config.num_classes)

    def forward(self, x: torch.Tensor) -> Outputs:
        """Logits of a batch of images at four sizes, `config.output_sizes(H, W)`.

        In train mode each batch norm of the backbone stores the statistics of the half image, then
        those of the quarter.

        Args:
            x: (N, 3, H, W).

        Raises:
            ValueError: H or W below 4.
        """
        height, width = x.shape[2], x.shape[3]
        self.config.check_input(height, width)
        sub1 = self.conv_sub1(x)  # (N, 64, H/8, W/8)
        # The whole backbone both times, for its statistics, although a part of it would do.
        half = self.resize(x, (height // 2, width // 2))
        sub2, _ = self.pretrained(half)  # (N, 512, H/16, W/16)
        quarter = self.resize(x, (height // 4, width // 4))
        _, sub4 = self.pretrained(quarter)  # (N, 2048, H/32, W/32)
        return self.head(sub1, sub2, self.ppm(sub4))
