"""ENet, the network of davidtvs/PyTorch-ENet; parameter names are the published ones.

`jax_impl/models/enet.py` mirrors this file. Shapes are (N, C, H, W); every convolution is without
bias; c is the width inside a bottleneck, a quarter of what comes in.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from parity.spec.networks.enet import Block, ENetConfig
from torch_impl import layers

Pair = tuple[int, int]


def activation(relu: bool) -> nn.Module:
    return layers.ReLU() if relu else layers.PReLU()


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


def conv_bn_act(*args: int, relu: bool, **kwargs: int) -> layers.Sequential:
    return layers.Sequential(*conv_bn(*args, **kwargs), activation(relu))


class InitialBlock(nn.Module):
    """A convolution beside a pooling of the image: H, W to H/2, W/2, rounded up."""

    def __init__(self, in_channels: int, out_channels: int, relu: bool) -> None:
        super().__init__()
        c = out_channels - in_channels
        self.main_branch = layers.Conv2d(in_channels, c, 3, 2, 1, bias=False)
        self.ext_branch = layers.MaxPool2d(3, 2, 1)
        self.batch_norm = layers.BatchNorm2d(out_channels)
        self.out_activation = activation(relu)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat((self.main_branch(x), self.ext_branch(x)), dim=1)
        return self.out_activation(self.batch_norm(x))


class RegularBottleneck(nn.Module):
    """Identity plus 1x1, 3x3 (dilated), 1x1."""

    def __init__(self, row: Block, dropout: float, relu: bool) -> None:
        super().__init__()
        c = row.in_channels // 4
        self.ext_conv1 = conv_bn_act(row.in_channels, c, 1, relu=relu)
        self.ext_conv2 = self.middle(c, row.dilation, relu)
        self.ext_conv3 = conv_bn_act(c, row.out_channels, 1, relu=relu)
        self.ext_regul = layers.Dropout2d(dropout)
        self.out_activation = activation(relu)

    def middle(self, c: int, dilation: int, relu: bool) -> layers.Sequential:
        return conv_bn_act(c, c, 3, padding=dilation, dilation=dilation, relu=relu)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        ext = self.ext_conv3(self.ext_conv2(self.ext_conv1(x)))
        return self.out_activation(x + self.ext_regul(ext, mask))


class AsymmetricBottleneck(RegularBottleneck):
    """Identity plus 1x1, 5x1, 1x5, 1x1."""

    def middle(self, c: int, dilation: int, relu: bool) -> layers.Sequential:
        p = 2 * dilation
        conv1 = conv_bn(c, c, (5, 1), padding=(p, 0), dilation=dilation)
        conv2 = conv_bn(c, c, (1, 5), padding=(0, p), dilation=dilation)
        return layers.Sequential(*conv1, activation(relu), *conv2, activation(relu))


class DownsamplingBottleneck(nn.Module):
    """Halves H and W, rounding down, and hands on where each maximum stood."""

    def __init__(self, row: Block, dropout: float, relu: bool) -> None:
        super().__init__()
        c = row.in_channels // 4
        self.main_max1 = layers.MaxPool2d(2, 2, return_indices=True)
        self.ext_conv1 = conv_bn_act(row.in_channels, c, 2, stride=2, relu=relu)
        self.ext_conv2 = conv_bn_act(
            c, c, 3, padding=row.dilation, dilation=row.dilation, relu=relu
        )
        self.ext_conv3 = conv_bn_act(c, row.out_channels, 1, relu=relu)
        self.ext_regul = layers.Dropout2d(dropout)
        self.out_activation = activation(relu)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        main, max_indices = self.main_max1(x)
        ext = self.ext_regul(self.ext_conv3(self.ext_conv2(self.ext_conv1(x))), mask)
        missing = ext.shape[1] - main.shape[1]
        main = nn.functional.pad(main, (0, 0, 0, 0, 0, missing))  # zero channels, last
        return self.out_activation(main + ext), max_indices


class UpsamplingBottleneck(nn.Module):
    """Doubles H and W; values return to where the paired downsampling found its maxima."""

    def __init__(self, row: Block, dropout: float, relu: bool) -> None:
        super().__init__()
        c = row.in_channels // 4
        self.main_conv1 = layers.Sequential(*conv_bn(row.in_channels, row.out_channels, 1))
        self.main_unpool1 = layers.MaxUnpool2d(2, 2)
        self.ext_conv1 = conv_bn_act(row.in_channels, c, 1, relu=relu)
        self.ext_tconv1 = layers.ConvTranspose2d(c, c, 2, 2, bias=False)
        self.ext_tconv1_bnorm = layers.BatchNorm2d(c)
        self.ext_tconv1_activation = activation(relu)
        self.ext_conv2 = layers.Sequential(*conv_bn(c, row.out_channels, 1))
        self.ext_regul = layers.Dropout2d(dropout)
        self.out_activation = activation(relu)

    def forward(
        self, x: torch.Tensor, indices: torch.Tensor, size: Pair, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        main = self.main_unpool1(self.main_conv1(x), indices, size)
        ext = self.ext_tconv1(self.ext_conv1(x), size)
        ext = self.ext_tconv1_activation(self.ext_tconv1_bnorm(ext))
        ext = self.ext_regul(self.ext_conv2(ext), mask)
        return self.out_activation(main + ext)


BLOCKS = {
    "downsample": DownsamplingBottleneck,
    "regular": RegularBottleneck,
    "asymmetric": AsymmetricBottleneck,
    "upsample": UpsamplingBottleneck,
}


class ENet(nn.Module):
    """ENet: images (N, 3, H, W) in [0, 1] to logits (N, classes, H, W); H and W at least 7."""

    def __init__(self, config: ENetConfig) -> None:
        super().__init__()
        self.config = config
        self.initial_block = InitialBlock(3, 16, config.encoder_relu)
        for b in config.blocks:  # the table is in parity/spec/models.py
            setattr(self, b.name, BLOCKS[b.kind](b, config.rate(b), config.relu(b)))
        self.transposed_conv = layers.ConvTranspose2d(16, config.num_classes, 3, 2, 1, bias=False)

    def forward(
        self, x: torch.Tensor, masks: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Logits of a batch of images.

        Args:
            x: (N, 3, H, W).
            masks: For train mode: block name -> (N, C), true where a channel is kept, for all of
                `config.dropout_sites(H, W)` whose probability is above 0.

        Raises:
            ValueError: H or W below 7, or a mask that train mode needs is missing.
        """
        masks = masks or {}
        input_size = (x.shape[2], x.shape[3])
        self.config.check_input(*input_size)
        pooled = []  # of each downsampling: where the maxima stood, and the size before it
        x = self.initial_block(x)  # (N, 16, H/2, W/2)
        for b in self.config.blocks:
            block, mask, size = getattr(self, b.name), masks.get(b.name), (x.shape[2], x.shape[3])
            if b.kind == "downsample":  # (N, 64, H/4, W/4), (N, 128, H/8, W/8)
                x, indices = block(x, mask)
                pooled.append((indices, size))
            elif b.kind == "upsample":  # (N, 64, H/4, W/4), (N, 16, H/2, W/2)
                x = block(x, *pooled.pop(), mask)
            else:
                x = block(x, mask)
        return self.transposed_conv(x, input_size)
