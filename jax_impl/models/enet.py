"""ENet, the network of davidtvs/PyTorch-ENet; parameter names are the published ones.

`torch_impl/models/enet.py` mirrors this file. Shapes are (N, H, W, C); every convolution is without
bias; c is the width inside a bottleneck, a quarter of what comes in.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jax_impl import layers
from jax_impl.models.enet_parts import Pair, activation, conv_bn, conv_bn_act, dropout
from parity.spec.networks.enet import Block, ENetConfig


class InitialBlock(nnx.Module):
    """A convolution concatenated with a max-pool of the image: H, W to H/2, W/2, rounded up."""

    def __init__(
        self, in_channels: int, out_channels: int, config: ENetConfig, *, rngs: nnx.Rngs
    ) -> None:
        c = out_channels - in_channels
        self.main_branch = layers.Conv2d(in_channels, c, 3, 2, 1, bias=False, rngs=rngs)
        same, plain = layers.MaxPool2dSame, layers.MaxPool2d
        self.ext_branch = (
            same(3, 2, rngs=rngs) if config.same_padding else plain(3, 2, 1, rngs=rngs)
        )
        self.batch_norm = layers.BatchNorm2d(out_channels, rngs=rngs)
        self.out_activation = activation(config.slopes(None, out_channels), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.concatenate((self.main_branch(x), self.ext_branch(x)), axis=-1)
        return self.out_activation(self.batch_norm(x))


class RegularBottleneck(nnx.Module):
    """Identity plus 1x1, 3x3 (dilated), 1x1."""

    def __init__(self, row: Block, config: ENetConfig, *, rngs: nnx.Rngs) -> None:
        c = row.in_channels // 4
        inner, outer = config.slopes(row, c), config.slopes(row, row.out_channels)
        self.ext_conv1 = conv_bn_act(row.in_channels, c, 1, slopes=inner, rngs=rngs)
        self.ext_conv2 = self.middle(c, row, config, rngs)
        self.ext_conv3 = conv_bn_act(c, row.out_channels, 1, slopes=outer, rngs=rngs)
        self.ext_regul = dropout(row, config, rngs=rngs)
        self.out_activation = activation(outer, rngs=rngs)

    def middle(self, c: int, row: Block, config: ENetConfig, rngs: nnx.Rngs) -> layers.Sequential:
        d, slopes = row.dilation, config.slopes(row, c)
        return conv_bn_act(c, c, 3, padding=d, dilation=d, slopes=slopes, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        ext = self.ext_conv3(self.ext_conv2(self.ext_conv1(x)))
        return self.out_activation(x + self.ext_regul(ext, mask))


class AsymmetricBottleneck(RegularBottleneck):
    """Identity plus 1x1, 5x1, 1x5 (or 1x5, 5x1), 1x1."""

    def middle(self, c: int, row: Block, config: ENetConfig, rngs: nnx.Rngs) -> layers.Sequential:
        slopes, p = config.slopes(row, c), 2 * row.dilation
        lines = (((5, 1), (p, 0)), ((1, 5), (0, p)))
        first, second = (
            conv_bn(c, c, kernel_size, 1, padding, row.dilation, rngs=rngs)
            for kernel_size, padding in lines[:: -1 if config.row_first else 1]
        )
        return layers.Sequential(
            *first, activation(slopes, rngs=rngs), *second, activation(slopes, rngs=rngs)
        )


class DownsamplingBottleneck(nnx.Module):
    """Halves H and W, rounding down, and also returns the indices of the maxima."""

    def __init__(self, row: Block, config: ENetConfig, *, rngs: nnx.Rngs) -> None:
        c = row.in_channels // 4
        inner, outer = config.slopes(row, c), config.slopes(row, row.out_channels)
        self.main_max1 = layers.MaxPool2d(2, 2, return_indices=True, rngs=rngs)
        self.ext_conv1 = conv_bn_act(row.in_channels, c, 2, stride=2, slopes=inner, rngs=rngs)
        self.ext_conv2 = conv_bn_act(
            c, c, 3, padding=row.dilation, dilation=row.dilation, slopes=inner, rngs=rngs
        )
        self.ext_conv3 = conv_bn_act(c, row.out_channels, 1, slopes=outer, rngs=rngs)
        self.ext_regul = dropout(row, config, rngs=rngs)
        self.out_activation = activation(outer, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        main, max_indices = self.main_max1(x)
        ext = self.ext_regul(self.ext_conv3(self.ext_conv2(self.ext_conv1(x))), mask)
        missing = ext.shape[-1] - main.shape[-1]
        main = jnp.pad(main, ((0, 0), (0, 0), (0, 0), (0, missing)))  # zero channels, last
        return self.out_activation(main + ext), max_indices


class UpsamplingBottleneck(nnx.Module):
    """Doubles H and W; values return to where the paired downsampling found its maxima.

    Or they are interpolated.
    """

    def __init__(self, row: Block, config: ENetConfig, *, rngs: nnx.Rngs) -> None:
        c = row.in_channels // 4
        inner, outer = config.slopes(row, c), config.slopes(row, row.out_channels)
        self.main_conv1 = layers.Sequential(
            *conv_bn(row.in_channels, row.out_channels, 1, rngs=rngs)
        )
        self.bilinear = config.bilinear
        double, unpool = layers.BilinearX2, layers.MaxUnpool2d
        self.main_unpool1 = double(rngs=rngs) if self.bilinear else unpool(2, 2, rngs=rngs)
        self.ext_conv1 = conv_bn_act(row.in_channels, c, 1, slopes=inner, rngs=rngs)
        self.ext_tconv1 = layers.ConvTranspose2d(c, c, 2, 2, bias=False, rngs=rngs)
        self.ext_tconv1_bnorm = layers.BatchNorm2d(c, rngs=rngs)
        self.ext_tconv1_activation = activation(inner, rngs=rngs)
        self.ext_conv2 = layers.Sequential(*conv_bn(c, row.out_channels, 1, rngs=rngs))
        self.ext_regul = dropout(row, config, rngs=rngs)
        self.out_activation = activation(outer, rngs=rngs)

    def __call__(
        self, x: jax.Array, indices: jax.Array, size: Pair, mask: jax.Array | None = None
    ) -> jax.Array:
        places = () if self.bilinear else (indices, size)
        main = self.main_unpool1(self.main_conv1(x), *places)
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


class ENet(nnx.Module):
    """ENet: images (N, H, W, 3) in [0, 1] to logits (N, H, W, classes), or H/8, W/8.

    H and W are at least 7.
    """

    def __init__(self, config: ENetConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.initial_block = InitialBlock(3, 16, config, rngs=rngs)
        for b in config.rows():  # the table is in parity/spec/networks/enet.py
            setattr(self, b.name, BLOCKS[b.kind](b, config, rngs=rngs))
        c, same, plain = config.num_classes, layers.ConvTranspose2dSame, layers.ConvTranspose2d
        if config.encoder_only:
            self.output_conv = layers.Conv2d(config.rows()[-1].out_channels, c, 1, rngs=rngs)
            return
        self.transposed_conv = (
            same(16, c, 3, 2, bias=False, rngs=rngs)
            if config.same_padding
            else plain(16, c, 3, 2, 1, bias=False, rngs=rngs)
        )

    def __call__(self, x: jax.Array, masks: Mapping[str, jax.Array] | None = None) -> jax.Array:
        """Compute the logits of a batch of images.

        Args:
            x: (N, H, W, 3).
            masks: For train mode: block name -> dropout mask, (N, C) or (N, H', W', C), for all of
                `config.dropout_sites(H, W)` whose probability is above 0.

        Raises:
            ValueError: H or W below 7, or a mask that train mode needs is missing.
        """
        masks = masks or {}
        input_size = (x.shape[1], x.shape[2])
        self.config.check_input(*input_size)
        pooled = []  # of each downsampling: where the maxima stood, and the size before it
        x = self.initial_block(x)  # (N, H/2, W/2, 16)
        for b in self.config.rows():
            block, mask, size = getattr(self, b.name), masks.get(b.name), (x.shape[1], x.shape[2])
            if b.kind == "downsample":  # (N, H/4, W/4, 64), (N, H/8, W/8, 128)
                x, indices = block(x, mask)
                pooled.append((indices, size))
            elif b.kind == "upsample":  # (N, H/4, W/4, 64), (N, H/2, W/2, 16)
                x = block(x, *pooled.pop(), mask)
            else:
                x = block(x, mask)
        if self.config.encoder_only:  # (N, H/8, W/8, classes)
            return self.output_conv(x)
        return self.transposed_conv(x, input_size)
