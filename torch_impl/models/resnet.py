"""The dilated ResNet of PyTorch-Encoding, as ICNet uses it; parameter names are the published ones.

`jax_impl/models/resnet.py` mirrors this file. Shapes are (N, C, H, W); every convolution is
without bias.
"""

from __future__ import annotations

import torch
from torch import nn

from parity.spec.networks.icnet import Bottleneck as Row
from parity.spec.networks.icnet import ICNetConfig
from torch_impl import layers


def downsample(row: Row) -> layers.Sequential | None:
    """Build the 1x1 convolution of the skip connection where sizes differ; None elsewhere."""
    if not row.downsample:
        return None
    return layers.Sequential(
        layers.Conv2d(row.in_channels, row.out_channels, 1, row.stride, bias=False),
        layers.BatchNorm2d(row.out_channels),
    )


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, dilated), 1x1, plus a skip connection: the identity or a 1x1."""

    def __init__(self, row: Row) -> None:
        super().__init__()
        i, c, o = row.in_channels, row.channels, row.out_channels
        s, d = row.stride, row.dilation
        self.conv1 = layers.Conv2d(i, c, 1, bias=False)
        self.bn1 = layers.BatchNorm2d(c)
        self.conv2 = layers.Conv2d(c, c, 3, s, d, d, bias=False)
        self.bn2 = layers.BatchNorm2d(c)
        self.conv3 = layers.Conv2d(c, o, 1, bias=False)
        self.bn3 = layers.BatchNorm2d(o)
        self.relu = layers.ReLU()
        self.downsample = downsample(row)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        beside = x if self.downsample is None else self.downsample(x)
        return self.relu(y + beside)


def stem(c: int) -> layers.Sequential:
    """Build three 3x3 convolutions in place of a 7x7; the last one's norm is outside."""
    return layers.Sequential(
        layers.Conv2d(3, c, 3, 2, 1, bias=False),
        layers.BatchNorm2d(c),
        layers.ReLU(),
        layers.Conv2d(c, c, 3, 1, 1, bias=False),
        layers.BatchNorm2d(c),
        layers.ReLU(),
        layers.Conv2d(c, 2 * c, 3, 1, 1, bias=False),
    )


class ResNet(nn.Module):
    """Features of the second and the last stage, both at 1/8 of the image's height and width."""

    def __init__(self, config: ICNetConfig) -> None:
        super().__init__()
        stages = config.stages()  # the table is in parity/spec/networks/icnet.py
        self.conv1 = stem(config.width)
        self.bn1 = layers.BatchNorm2d(2 * config.width)
        self.relu = layers.ReLU()
        self.maxpool = layers.MaxPool2d(3, 2, 1)
        self.layer1 = layers.Sequential(*(Bottleneck(row) for row in stages[0]))
        self.layer2 = layers.Sequential(*(Bottleneck(row) for row in stages[1]))
        self.layer3 = layers.Sequential(*(Bottleneck(row) for row in stages[2]))
        self.layer4 = layers.Sequential(*(Bottleneck(row) for row in stages[3]))
        if config.classifier:  # published with the backbone, never called
            self.fc = layers.Linear(stages[3][-1].out_channels, config.classifier)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.relu(self.bn1(self.conv1(x)))  # (N, 128, H/2, W/2)
        x = self.layer1(self.maxpool(x))  # (N, 256, H/4, W/4)
        x2 = self.layer2(x)  # (N, 512, H/8, W/8)
        x4 = self.layer4(self.layer3(x2))  # (N, 2048, H/8, W/8)
        return x2, x4
