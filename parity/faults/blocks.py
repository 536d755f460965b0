"""Blocks with faults between their layers; for faulty layers see `layer_faults`."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx


class ENetEarly(nnx.Module):
    """Activates before the shortcut is added, not after it."""

    def __call__(self: Any, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        ext = self.ext_conv3(self.ext_conv2(self.ext_conv1(x)))
        return x + self.out_activation(self.ext_regul(ext, mask))


class ERFNetEarly(nnx.Module):
    """Activates before the shortcut is added, not after it."""

    def __call__(self: Any, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        y = jax.nn.relu(self.conv3x1_1(x))
        y = jax.nn.relu(self.bn1(self.conv1x3_1(y)))
        y = self.bn2(self.conv1x3_2(jax.nn.relu(self.conv3x1_2(y))))
        return x + jax.nn.relu(self.dropout(y, mask))


class ResNetEarly(nnx.Module):
    """Activates before the shortcut is added, not after it."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        return self.relu(y) + (x if self.downsample is None else self.downsample(x))


class GENetEarly(nnx.Module):
    """Gates after the shortcut is added, not before it."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        a = self.relu1(self.bn1(x))
        u = self.conv2(self.relu2(self.bn2(self.conv1(a))))
        surroundings = self.mlp(self.downop(u))
        gate = self.sigmoid(self.upsample(surroundings, (u.shape[1], u.shape[2])))
        return ((x if self.convShortcut is None else self.convShortcut(a)) + u) * gate


class CutShort(nnx.Module):
    """Runs the backbone of the half image only as far as it is used."""

    def __call__(self: Any, x: jax.Array) -> tuple[jax.Array, ...]:
        height, width = x.shape[1], x.shape[2]
        sub1, net = self.conv_sub1(x), self.pretrained
        half = self.resize(x, (height // 2, width // 2))
        y = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(half)))))
        sub2 = net.layer2(y)
        quarter = self.resize(x, (height // 4, width // 4))
        _, sub4 = net(quarter)
        return self.head(sub1, sub2, self.ppm(sub4))


# Class of a block -> the fault that shortcuts have there.
BLOCKS: dict[str, type] = {
    "RegularBottleneck": ENetEarly,
    "NonBottleneck1d": ERFNetEarly,
    "Bottleneck": ResNetEarly,
    "GatedBlock": GENetEarly,
}
