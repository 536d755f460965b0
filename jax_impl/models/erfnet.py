"""ERFNet, the network of Eromera/erfnet_pytorch; parameter names are the published ones.

`torch_impl/models/erfnet.py` mirrors this file. Shapes are (N, H, W, C); every convolution has a
bias.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jax_impl import layers
from parity.spec.networks.erfnet import Block, ERFNetConfig

EPS = 1e-3  # of every batch norm


class DownsamplerBlock(nnx.Module):
    """A convolution concatenated with a max-pool of the input: H, W to H/2, W/2."""

    def __init__(self, row: Block, *, rngs: nnx.Rngs) -> None:
        c = row.out_channels - row.in_channels
        self.conv = layers.Conv2d(row.in_channels, c, 3, 2, 1, rngs=rngs)
        self.pool = layers.MaxPool2d(2, 2, rngs=rngs)
        self.bn = layers.BatchNorm2d(row.out_channels, eps=EPS, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.concatenate((self.conv(x), self.pool(x)), axis=-1)
        return jax.nn.relu(self.bn(x))


class NonBottleneck1d(nnx.Module):
    """Identity plus 3x1, 1x3, and again, dilated."""

    def __init__(
        self,
        row: Block,
        dropout: float,
        channel_dropout: bool,
        norms_last: bool,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        c, d = row.out_channels, row.dilation
        self.conv3x1_1 = layers.Conv2d(c, c, (3, 1), padding=(1, 0), rngs=rngs)
        self.conv1x3_1 = layers.Conv2d(c, c, (1, 3), padding=(0, 1), rngs=rngs)
        bn1 = layers.BatchNorm2d(c, eps=EPS, rngs=rngs)
        if not norms_last:  # PyTorch's optimizers number parameters as they are registered
            self.bn1 = bn1
        self.conv3x1_2 = layers.Conv2d(c, c, (3, 1), padding=(d, 0), dilation=(d, 1), rngs=rngs)
        self.conv1x3_2 = layers.Conv2d(c, c, (1, 3), padding=(0, d), dilation=(1, d), rngs=rngs)
        self.bn1 = bn1
        self.bn2 = layers.BatchNorm2d(c, eps=EPS, rngs=rngs)
        kind = layers.Dropout2d if channel_dropout else layers.Dropout
        self.dropout = kind(dropout, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        y = jax.nn.relu(self.conv3x1_1(x))
        y = jax.nn.relu(self.bn1(self.conv1x3_1(y)))
        y = jax.nn.relu(self.conv3x1_2(y))
        y = self.bn2(self.conv1x3_2(y))
        return jax.nn.relu(x + self.dropout(y, mask))


class UpsamplerBlock(nnx.Module):
    """A transposed convolution: H, W to 2H, 2W."""

    def __init__(self, row: Block, same_padding: bool, *, rngs: nnx.Rngs) -> None:
        i, o = row.in_channels, row.out_channels
        same, plain = layers.ConvTranspose2dSame, layers.ConvTranspose2d
        self.conv = same(i, o, 3, 2, rngs=rngs) if same_padding else plain(i, o, 3, 2, 1, rngs=rngs)
        self.bn = layers.BatchNorm2d(row.out_channels, eps=EPS, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(x, (2 * x.shape[1], 2 * x.shape[2]))
        return jax.nn.relu(self.bn(x))


def block(row: Block, config: ERFNetConfig, dropout: float = 0.0, *, rngs: nnx.Rngs) -> nnx.Module:
    if row.kind == "down":
        return DownsamplerBlock(row, rngs=rngs)
    if row.kind == "up":
        return UpsamplerBlock(row, config.same_padding, rngs=rngs)
    return NonBottleneck1d(row, dropout, config.channel_dropout, config.norms_last, rngs=rngs)


class Encoder(nnx.Module):
    """Features at 1/8, and a classifier of them that is used only while the encoder is trained."""

    def __init__(self, config: ERFNetConfig, *, rngs: nnx.Rngs) -> None:
        first, *rest = config.encoder
        self.predicts = config.encoder_only
        self.initial_block = block(first, config, rngs=rngs)
        self.layers = layers.ModuleList(block(b, config, config.rate(b), rngs=rngs) for b in rest)
        if config.output_conv:
            c = rest[-1].out_channels
            self.output_conv = layers.Conv2d(c, config.num_classes, 1, rngs=rngs)

    def __call__(self, x: jax.Array, masks: Mapping[str, jax.Array]) -> jax.Array:
        x = self.initial_block(x)  # (N, H/2, W/2, 16)
        for i, layer in enumerate(self.layers):  # (N, H/4, W/4, 64), (N, H/8, W/8, 128)
            drops = isinstance(layer, NonBottleneck1d)
            x = layer(x, masks.get(f"encoder.layers.{i}")) if drops else layer(x)
        return self.output_conv(x) if self.predicts else x


class Decoder(nnx.Module):
    """Turns the encoder's features into logits of the image's size."""

    def __init__(self, config: ERFNetConfig, *, rngs: nnx.Rngs) -> None:
        self.layers = layers.ModuleList(block(b, config, rngs=rngs) for b in config.decoder)
        c = config.decoder[-1].out_channels
        self.output_conv = layers.ConvTranspose2d(c, config.num_classes, 2, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:  # (N, H/4, W/4, 64), (N, H/2, W/2, 16)
            x = layer(x)
        return self.output_conv(x)


class ERFNet(nnx.Module):
    """ERFNet: images (N, H, W, 3) in [0, 1] to logits (N, H, W, classes), or H/8, W/8.

    H and W are multiples of 8. Encoder and decoder always hold their parameters, as published; the
    output that is not used (see `config.encoder_only`) gets no gradient.
    """

    def __init__(self, config: ERFNetConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def __call__(self, x: jax.Array, masks: Mapping[str, jax.Array] | None = None) -> jax.Array:
        """Compute the logits of a batch of images.

        Args:
            x: (N, H, W, 3).
            masks: For train mode: path of a block -> dropout mask, (N, C) or (N, H', W', C), for
                all of `config.dropout_sites(H, W)` whose probability is above 0.

        Raises:
            ValueError: H or W is no multiple of 8, or a mask that train mode needs is missing.
        """
        self.config.check_input(x.shape[1], x.shape[2])
        x = self.encoder(x, masks or {})
        return x if self.config.encoder_only else self.decoder(x)
