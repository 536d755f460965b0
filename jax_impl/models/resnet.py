"""The dilated ResNet of PyTorch-Encoding, as ICNet uses it; parameter names are the published ones.

`torch_impl/models/resnet.py` mirrors this file. Shapes are (N, H, W, C); every convolution is
without bias.
"""

from __future__ import annotations

import jax
from flax import nnx

from jax_impl import layers
from parity.spec.networks.icnet import Bottleneck as Row
from parity.spec.networks.icnet import ICNetConfig


def downsample(row: Row, *, rngs: nnx.Rngs) -> layers.Sequential | None:
    """Build the 1x1 convolution of the skip connection where sizes differ; None elsewhere."""
    if not row.downsample:
        return None
    return layers.Sequential(
        layers.Conv2d(row.in_channels, row.out_channels, 1, row.stride, bias=False, rngs=rngs),
        layers.BatchNorm2d(row.out_channels, rngs=rngs),
    )


class Bottleneck(nnx.Module):
    """1x1, 3x3 (with the stride, dilated), 1x1, plus a skip connection: the identity or a 1x1."""

    def __init__(self, row: Row, *, rngs: nnx.Rngs) -> None:
        i, c, o = row.in_channels, row.channels, row.out_channels
        s, d = row.stride, row.dilation
        self.conv1 = layers.Conv2d(i, c, 1, bias=False, rngs=rngs)
        self.bn1 = layers.BatchNorm2d(c, rngs=rngs)
        self.conv2 = layers.Conv2d(c, c, 3, s, d, d, bias=False, rngs=rngs)
        self.bn2 = layers.BatchNorm2d(c, rngs=rngs)
        self.conv3 = layers.Conv2d(c, o, 1, bias=False, rngs=rngs)
        self.bn3 = layers.BatchNorm2d(o, rngs=rngs)
        self.relu = layers.ReLU(rngs=rngs)
        self.downsample = downsample(row, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        beside = x if self.downsample is None else self.downsample(x)
        return self.relu(y + beside)


def stem(c: int, *, rngs: nnx.Rngs) -> layers.Sequential:
    """Build three 3x3 convolutions in place of a 7x7; the last one's norm is outside."""
    return layers.Sequential(
        layers.Conv2d(3, c, 3, 2, 1, bias=False, rngs=rngs),
        layers.BatchNorm2d(c, rngs=rngs),
        layers.ReLU(rngs=rngs),
        layers.Conv2d(c, c, 3, 1, 1, bias=False, rngs=rngs),
        layers.BatchNorm2d(c, rngs=rngs),
        layers.ReLU(rngs=rngs),
        layers.Conv2d(c, 2 * c, 3, 1, 1, bias=False, rngs=rngs),
    )


class ResNet(nnx.Module):
    """Features of the second and the last stage, both at 1/8 of the image's height and width."""

    def __init__(self, config: ICNetConfig, *, rngs: nnx.Rngs) -> None:
        stages = config.stages()  # the table is in parity/spec/networks/icnet.py
        self.conv1 = stem(config.width, rngs=rngs)
        self.bn1 = layers.BatchNorm2d(2 * config.width, rngs=rngs)
        self.relu = layers.ReLU(rngs=rngs)
        self.maxpool = layers.MaxPool2d(3, 2, 1, rngs=rngs)
        self.layer1 = layers.Sequential(*(Bottleneck(row, rngs=rngs) for row in stages[0]))
        self.layer2 = layers.Sequential(*(Bottleneck(row, rngs=rngs) for row in stages[1]))
        self.layer3 = layers.Sequential(*(Bottleneck(row, rngs=rngs) for row in stages[2]))
        self.layer4 = layers.Sequential(*(Bottleneck(row, rngs=rngs) for row in stages[3]))
        if config.classifier:  # published with the backbone, never called
            self.fc = layers.Linear(stages[3][-1].out_channels, config.classifier, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = self.relu(self.bn1(self.conv1(x)))  # (N, H/2, W/2, 128)
        x = self.layer1(self.maxpool(x))  # (N, H/4, W/4, 256)
        x2 = self.layer2(x)  # (N, H/8, W/8, 512)
        x4 = self.layer4(self.layer3(x2))  # (N, H/8, W/8, 2048)
        return x2, x4
