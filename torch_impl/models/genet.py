"""GENet on a wide ResNet, as Ascend's GENet_for_Pytorch; parameter names are the published ones.

`jax_impl/models/genet.py` mirrors this file. Shapes are (N, C, H, W); convolutions
have no bias. What a block gathers from its surroundings gates its output (Hu et al. 2018).
"""

from __future__ import annotations

import torch
from torch import nn

from parity.spec.networks.genet import REDUCTION, STEM, Block, GENetConfig
from torch_impl import layers


class Gather(nn.Module):
    """A depthwise convolution and a batch norm."""

    def __init__(
        self, channels: int, kernel_size: int, stride: int, padding: int, relu: bool
    ) -> None:
        super().__init__()
        self.dwconv = layers.Conv2d(
            channels, channels, kernel_size, stride, padding, groups=channels, bias=False
        )
        self.bn = layers.BatchNorm2d(channels)
        self.relu = layers.ReLU() if relu else layers.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn(self.dwconv(x)))


def gather(config: GENetConfig, row: Block) -> nn.Module:
    """Build the layers that pool a map to 1x1, or to 1/extent of its side."""
    c, extent = row.out_channels, config.extent
    if not config.extra_params:
        return layers.AdaptiveAvgPool2d(row.side // extent if extent else 1)
    if extent == 0:
        return Gather(c, row.side, 1, 0, relu=False)
    if extent == 2:  # a single one, which the published class puts into no sequence
        return Gather(c, 3, 2, 1, relu=False)
    last = config.halvings() - 1
    return layers.Sequential(*(Gather(c, 3, 2, 1, relu=i < last) for i in range(last + 1)))


def mlp(config: GENetConfig, c: int) -> nn.Module:
    if not config.mlp:
        return layers.Identity()
    return layers.Sequential(
        layers.Conv2d(c, c // REDUCTION, 1, bias=False),
        layers.ReLU(),
        layers.Conv2d(c // REDUCTION, c, 1, bias=False),
    )


class GatedBlock(nn.Module):
    """BN, ReLU, 3x3, BN, ReLU, 3x3, times the gate; plus the identity or a 1x1 of the ReLU."""

    def __init__(self, config: GENetConfig, row: Block) -> None:
        super().__init__()
        c = row.out_channels
        self.bn1 = layers.BatchNorm2d(row.in_channels)
        self.relu1 = layers.ReLU()
        self.conv1 = layers.Conv2d(row.in_channels, c, 3, row.stride, 1, bias=False)
        self.bn2 = layers.BatchNorm2d(c)
        self.relu2 = layers.ReLU()
        self.conv2 = layers.Conv2d(c, c, 3, 1, 1, bias=False)
        self.convShortcut = (  # the published name
            layers.Conv2d(row.in_channels, c, 1, row.stride, bias=False) if row.shortcut else None
        )
        self.downop = gather(config, row)
        self.mlp = mlp(config, c)
        self.upsample = layers.Nearest()
        self.sigmoid = layers.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.relu1(self.bn1(x))
        u = self.conv2(self.relu2(self.bn2(self.conv1(a))))
        surroundings = self.mlp(self.downop(u))
        gate = self.sigmoid(self.upsample(surroundings, (u.shape[2], u.shape[3])))
        return (x if self.convShortcut is None else self.convShortcut(a)) + u * gate


class Group(nn.Module):
    """Blocks of one width, one after the other."""

    def __init__(self, config: GENetConfig, rows: tuple[Block, ...]) -> None:
        super().__init__()
        self.layer = layers.Sequential(*(GatedBlock(config, row) for row in rows))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class GENet(nn.Module):
    """GENet: images (N, 3, 32, 32), normalised, to logits (N, classes)."""

    def __init__(self, config: GENetConfig) -> None:
        super().__init__()
        self.config = config
        rows = config.groups()  # the table is in parity/spec/networks/genet.py
        self.conv1 = layers.Conv2d(3, STEM, 3, 1, 1, bias=False)
        self.block1 = Group(config, rows[0])
        self.block2 = Group(config, rows[1])
        self.block3 = Group(config, rows[2])
        self.bn1 = layers.BatchNorm2d(rows[-1][-1].out_channels)
        self.relu = layers.ReLU()
        self.pool = layers.AvgPool2d(8)
        self.fc = layers.Linear(rows[-1][-1].out_channels, config.num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of images.

        Args:
            x: (N, 3, H, W).

        Raises:
            ValueError: H or W that the network cannot process; see `GENetConfig.check_input`.
        """
        self.config.check_input(x.shape[2], x.shape[3])
        x = self.conv1(x)  # (N, 16, H, W)
        x = self.block1(x)  # (N, 16 width, H, W)
        x = self.block2(x)  # (N, 32 width, H/2, W/2)
        x = self.block3(x)  # (N, 64 width, H/4, W/4)
        x = self.pool(self.relu(self.bn1(x)))  # (N, 64 width, 1, 1)
        return self.fc(x[:, :, 0, 0])
