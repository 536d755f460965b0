"""GENet on a wide ResNet, as Ascend's GENet_for_Pytorch; parameter names are the published ones.

`torch_impl/models/genet.py` mirrors this file. Shapes are (N, H, W, C); convolutions
have no bias. What a block gathers from its surroundings gates its output (Hu et al. 2018).
"""

from __future__ import annotations

import jax
from flax import nnx

from jax_impl import layers
from parity.spec.networks.genet import REDUCTION, STEM, Block, GENetConfig


class Gather(nnx.Module):
    """A depthwise convolution and a batch norm."""

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        stride: int,
        padding: int,
        relu: bool,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.dwconv = layers.Conv2d(
            channels, channels, kernel_size, stride, padding, groups=channels, bias=False, rngs=rngs
        )
        self.bn = layers.BatchNorm2d(channels, rngs=rngs)
        self.relu = layers.ReLU(rngs=rngs) if relu else layers.Identity(rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.relu(self.bn(self.dwconv(x)))


def gather(config: GENetConfig, row: Block, *, rngs: nnx.Rngs) -> nnx.Module:
    """Build the layers that pool a map to 1x1, or to 1/extent of its side."""
    c, extent = row.out_channels, config.extent
    if not config.extra_params:
        return layers.AdaptiveAvgPool2d(row.side // extent if extent else 1, rngs=rngs)
    if extent == 0:
        return Gather(c, row.side, 1, 0, relu=False, rngs=rngs)
    if extent == 2:  # a single one, which the published class puts into no sequence
        return Gather(c, 3, 2, 1, relu=False, rngs=rngs)
    last = config.halvings() - 1
    return layers.Sequential(
        *(Gather(c, 3, 2, 1, relu=i < last, rngs=rngs) for i in range(last + 1))
    )


def mlp(config: GENetConfig, c: int, *, rngs: nnx.Rngs) -> nnx.Module:
    if not config.mlp:
        return layers.Identity(rngs=rngs)
    return layers.Sequential(
        layers.Conv2d(c, c // REDUCTION, 1, bias=False, rngs=rngs),
        layers.ReLU(rngs=rngs),
        layers.Conv2d(c // REDUCTION, c, 1, bias=False, rngs=rngs),
    )


class GatedBlock(nnx.Module):
    """BN, ReLU, 3x3, BN, ReLU, 3x3, times the gate; plus the identity or a 1x1 of the ReLU."""

    def __init__(self, config: GENetConfig, row: Block, *, rngs: nnx.Rngs) -> None:
        c = row.out_channels
        self.bn1 = layers.BatchNorm2d(row.in_channels, rngs=rngs)
        self.relu1 = layers.ReLU(rngs=rngs)
        self.conv1 = layers.Conv2d(row.in_channels, c, 3, row.stride, 1, bias=False, rngs=rngs)
        self.bn2 = layers.BatchNorm2d(c, rngs=rngs)
        self.relu2 = layers.ReLU(rngs=rngs)
        self.conv2 = layers.Conv2d(c, c, 3, 1, 1, bias=False, rngs=rngs)
        self.convShortcut = (  # the published name
            layers.Conv2d(row.in_channels, c, 1, row.stride, bias=False, rngs=rngs)
            if row.shortcut
            else nnx.data(None)
        )
        self.downop = gather(config, row, rngs=rngs)
        self.mlp = mlp(config, c, rngs=rngs)
        self.upsample = layers.Nearest(rngs=rngs)
        self.sigmoid = layers.Sigmoid(rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        a = self.relu1(self.bn1(x))
        u = self.conv2(self.relu2(self.bn2(self.conv1(a))))
        surroundings = self.mlp(self.downop(u))
        gate = self.sigmoid(self.upsample(surroundings, (u.shape[1], u.shape[2])))
        return (x if self.convShortcut is None else self.convShortcut(a)) + u * gate


class Group(nnx.Module):
    """Blocks of one width, one after the other."""

    def __init__(self, config: GENetConfig, rows: tuple[Block, ...], *, rngs: nnx.Rngs) -> None:
        self.layer = layers.Sequential(*(GatedBlock(config, row, rngs=rngs) for row in rows))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layer(x)


class GENet(nnx.Module):
    """GENet: images (N, 32, 32, 3), normalised, to logits (N, classes)."""

    def __init__(self, config: GENetConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        rows = config.groups()  # the table is in parity/spec/networks/genet.py
        self.conv1 = layers.Conv2d(3, STEM, 3, 1, 1, bias=False, rngs=rngs)
        self.block1 = Group(config, rows[0], rngs=rngs)
        self.block2 = Group(config, rows[1], rngs=rngs)
        self.block3 = Group(config, rows[2], rngs=rngs)
        self.bn1 = layers.BatchNorm2d(rows[-1][-1].out_channels, rngs=rngs)
        self.relu = layers.ReLU(rngs=rngs)
        self.pool = layers.AvgPool2d(8, rngs=rngs)
        self.fc = layers.Linear(rows[-1][-1].out_channels, config.num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits of a batch of images.

        Args:
            x: (N, H, W, 3).

        Raises:
            ValueError: H or W that the network cannot process; see `GENetConfig.check_input`.
        """
        self.config.check_input(x.shape[1], x.shape[2])
        x = self.conv1(x)  # (N, H, W, 16)
        x = self.block1(x)  # (N, H, W, 16 width)
        x = self.block2(x)  # (N, H/2, W/2, 32 width)
        x = self.block3(x)  # (N, H/4, W/4, 64 width)
        x = self.pool(self.relu(self.bn1(x)))  # (N, 1, 1, 64 width)
        return self.fc(x[:, 0, 0])
