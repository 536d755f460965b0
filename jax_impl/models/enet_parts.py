"""The building blocks of ENet.

`torch_impl/models/enet_parts.py` mirrors this file.
"""

from __future__ import annotations

from flax import nnx

from jax_impl import layers
from parity.spec.networks.enet import Block, ENetConfig

Pair = tuple[int, int]


def activation(slopes: int, *, rngs: nnx.Rngs) -> nnx.Module:
    return layers.PReLU(slopes, rngs=rngs) if slopes else layers.ReLU(rngs=rngs)


def dropout(row: Block, config: ENetConfig, *, rngs: nnx.Rngs) -> nnx.Module:
    kind = layers.Dropout2d if config.channel_dropout else layers.Dropout
    return kind(config.rate(row), rngs=rngs)


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel_size: int | Pair,
    stride: int = 1,
    padding: int | Pair = 0,
    dilation: int = 1,
    *,
    rngs: nnx.Rngs,
) -> tuple[nnx.Module, nnx.Module]:
    conv = layers.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False, rngs=rngs
    )
    return conv, layers.BatchNorm2d(out_channels, rngs=rngs)


def conv_bn_act(*args: int, slopes: int, rngs: nnx.Rngs, **kwargs: int) -> layers.Sequential:
    return layers.Sequential(*conv_bn(*args, rngs=rngs, **kwargs), activation(slopes, rngs=rngs))
