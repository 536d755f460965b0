"""The building blocks of ENet.

`jax_impl/models/enet_parts.py` mirrors this file.
"""

from __future__ import annotations

from torch import nn

from parity.spec.networks.enet import Block, ENetConfig
from torch_impl import layers

Pair = tuple[int, int]


def activation(slopes: int) -> nn.Module:
    return layers.PReLU(slopes) if slopes else layers.ReLU()


def dropout(row: Block, config: ENetConfig) -> nn.Module:
    kind = layers.Dropout2d if config.channel_dropout else layers.Dropout
    return kind(config.rate(row))


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel_size: int | Pair,
    stride: int = 1,
    padding: int | Pair = 0,
    dilation: int = 1,
) -> tuple[nn.Module, nn.Module]:
    conv = layers.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False
    )
    return conv, layers.BatchNorm2d(out_channels)


def conv_bn_act(*args: int, slopes: int, **kwargs: int) -> layers.Sequential:
    return layers.Sequential(*conv_bn(*args, **kwargs), activation(slopes))
