"""ERFNet, the network of Eromera/erfnet_pytorch; parameter names are the published ones.

`jax_impl/models/erfnet.py` mirrors this file. Shapes are (N, C, H, W); every convolution has a
bias.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from parity.spec.networks.erfnet import Block, ERFNetConfig
from torch_impl import layers

EPS = 1e-3  # of every batch norm


class DownsamplerBlock(nn.Module):
    """A convolution concatenated with a max-pool of the input: H, W to H/2, W/2."""

    def __init__(self, row: Block) -> None:
        super().__init__()
        c = row.out_channels - row.in_channels
        self.conv = layers.Conv2d(row.in_channels, c, 3, 2, 1)
        self.pool = layers.MaxPool2d(2, 2)
        self.bn = layers.BatchNorm2d(row.out_channels, eps=EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat((self.conv(x), self.pool(x)), dim=1)
        return functional.relu(self.bn(x))


class NonBottleneck1d(nn.Module):
    """Identity plus 3x1, 1x3, and again, dilated."""

    def __init__(self, row: Block, dropout: float, channel_dropout: bool, norms_last: bool) -> None:
        super().__init__()
        c, d = row.out_channels, row.dilation
        self.conv3x1_1 = layers.Conv2d(c, c, (3, 1), padding=(1, 0))
        self.conv1x3_1 = layers.Conv2d(c, c, (1, 3), padding=(0, 1))
        bn1 = layers.BatchNorm2d(c, eps=EPS)
        if not norms_last:  # an optimizer numbers parameters as they are registered
            self.bn1 = bn1
        self.conv3x1_2 = layers.Conv2d(c, c, (3, 1), padding=(d, 0), dilation=(d, 1))
        self.conv1x3_2 = layers.Conv2d(c, c, (1, 3), padding=(0, d), dilation=(1, d))
        self.bn1 = bn1
        self.bn2 = layers.BatchNorm2d(c, eps=EPS)
        kind = layers.Dropout2d if channel_dropout else layers.Dropout
        self.dropout = kind(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        y = functional.relu(self.conv3x1_1(x))
        y = functional.relu(self.bn1(self.conv1x3_1(y)))
        y = functional.relu(self.conv3x1_2(y))
        y = self.bn2(self.conv1x3_2(y))
        return functional.relu(x + self.dropout(y, mask))


class UpsamplerBlock(nn.Module):
    """A transposed convolution: H, W to 2H, 2W."""

    def __init__(self, row: Block, same_padding: bool) -> None:
        super().__init__()
        i, o = row.in_channels, row.out_channels
        same, plain = layers.ConvTranspose2dSame, layers.ConvTranspose2d
        self.conv = same(i, o, 3, 2) if same_padding else plain(i, o, 3, 2, 1)
        self.bn = layers.BatchNorm2d(row.out_channels, eps=EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x, (2 * x.shape[2], 2 * x.shape[3]))
        return functional.relu(self.bn(x))


def block(row: Block, config: ERFNetConfig, dropout: float = 0.0) -> nn.Module:
    if row.kind == "down":
        return DownsamplerBlock(row)
    if row.kind == "up":
        return UpsamplerBlock(row, config.same_padding)
    return NonBottleneck1d(row, dropout, config.channel_dropout, config.norms_last)


class Encoder(nn.Module):
    """Features at 1/8, and a classifier of them that is used only while the encoder is trained."""

    def __init__(self, config: ERFNetConfig) -> None:
        super().__init__()
        first, *rest = config.encoder
        self.predicts = config.encoder_only
        self.initial_block = block(first, config)
        self.layers = layers.ModuleList(block(b, config, config.rate(b)) for b in rest)
        if config.output_conv:
            self.output_conv = layers.Conv2d(rest[-1].out_channels, config.num_classes, 1)

    def forward(self, x: torch.Tensor, masks: Mapping[str, torch.Tensor]) -> torch.Tensor:
        x = self.initial_block(x)  # (N, 16, H/2, W/2)
        for i, layer in enumerate(self.layers):  # (N, 64, H/4, W/4), (N, 128, H/8, W/8)
            drops = isinstance(layer, NonBottleneck1d)
            x = layer(x, masks.get(f"encoder.layers.{i}")) if drops else layer(x)
        return self.output_conv(x) if self.predicts else x


class Decoder(nn.Module):
    """Turns the encoder's features into logits of the image's size."""

    def __init__(self, config: ERFNetConfig) -> None:
        super().__init__()
        self.layers = layers.ModuleList(block(b, config) for b in config.decoder)
        c = config.decoder[-1].out_channels
        self.output_conv = layers.ConvTranspose2d(c, config.num_classes, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:  # (N, 64, H/4, W/4), (N, 16, H/2, W/2)
            x = layer(x)
        return self.output_conv(x)


class ERFNet(nn.Module):
    """ERFNet: images (N, 3, H, W) in [0, 1] to logits (N, classes, H, W), or H/8, W/8.

    H and W are multiples of 8. Encoder and decoder always hold their parameters, as published; the
    output that is not used (see `config.encoder_only`) gets no gradient.
    """

    def __init__(self, config: ERFNetConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(
        self, x: torch.Tensor, masks: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Compute the logits of a batch of images.

        Args:
            x: (N, 3, H, W).
            masks: For train mode: path of a block -> dropout mask, (N, C) or (N, C, H', W'), for
                all of `config.dropout_sites(H, W)` whose probability is above 0.

        Raises:
            ValueError: H or W is no multiple of 8, or a mask that train mode needs is missing.
        """
        self.config.check_input(x.shape[2], x.shape[3])
        x = self.encoder(x, masks or {})
        return x if self.config.encoder_only else self.decoder(x)
