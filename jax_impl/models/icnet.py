"""ICNet, the network of liminn/ICNet-pytorch; parameter names are the published ones.

`torch_impl/models/icnet.py` mirrors this file. Shapes are (N, H, W, C); every convolution is
without bias, every resize bilinear with aligned corners.
"""

from __future__ import annotations

import jax
from flax import nnx

from jax_impl import layers
from jax_impl.models.resnet import ResNet
from parity.spec.networks.icnet import EXPANSION, POOL_BINS, ICNetConfig

Outputs = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


class ConvBNReLU(nnx.Module):
    """A 3x3 that halves H and W, rounding up."""

    def __init__(self, in_channels: int, out_channels: int, *, rngs: nnx.Rngs) -> None:
        self.conv = layers.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False, rngs=rngs)
        self.bn = layers.BatchNorm2d(out_channels, rngs=rngs)
        self.relu = layers.ReLU(rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.relu(self.bn(self.conv(x)))


class PyramidPooling(nnx.Module):
    """The sum of a map and of its means over a pyramid of windows."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.pools = layers.ModuleList(
            layers.AdaptiveAvgPool2d(bins, rngs=rngs) for bins in POOL_BINS
        )
        self.resize = layers.Resize(align_corners=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        size, y = (x.shape[1], x.shape[2]), x
        for pool in self.pools:
            y = y + self.resize(pool(x), size)
        return y


class CascadeFeatureFusion(nnx.Module):
    """A small map brought to the size of a large one, and added; and its own logits."""

    def __init__(
        self, low_channels: int, high_channels: int, channels: int, classes: int, *, rngs: nnx.Rngs
    ) -> None:
        self.resize = layers.Resize(align_corners=True, rngs=rngs)
        self.conv_low = layers.Sequential(
            layers.Conv2d(low_channels, channels, 3, padding=2, dilation=2, bias=False, rngs=rngs),
            layers.BatchNorm2d(channels, rngs=rngs),
        )
        self.conv_high = layers.Sequential(
            layers.Conv2d(high_channels, channels, 1, bias=False, rngs=rngs),
            layers.BatchNorm2d(channels, rngs=rngs),
        )
        self.conv_low_cls = layers.Conv2d(channels, classes, 1, bias=False, rngs=rngs)

    def __call__(self, low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
        low = self.conv_low(self.resize(low, (high.shape[1], high.shape[2])))
        fused = jax.nn.relu(low + self.conv_high(high))
        return fused, self.conv_low_cls(low)


class Head(nnx.Module):
    """Turns the three branches into four maps of logits."""

    def __init__(self, width: int, classes: int, *, rngs: nnx.Rngs) -> None:
        c = 2 * width
        self.cff_12 = CascadeFeatureFusion(c, width, c, classes, rngs=rngs)
        self.cff_24 = CascadeFeatureFusion(
            8 * EXPANSION * width, 2 * EXPANSION * width, c, classes, rngs=rngs
        )
        self.resize = layers.Resize(align_corners=True, rngs=rngs)
        self.conv_cls = layers.Conv2d(c, classes, 1, bias=False, rngs=rngs)

    def __call__(self, sub1: jax.Array, sub2: jax.Array, sub4: jax.Array) -> Outputs:
        height, width = sub1.shape[1], sub1.shape[2]
        fused, logits16 = self.cff_24(sub4, sub2)  # (N, H/16, W/16, 128)
        fused, logits8 = self.cff_12(fused, sub1)  # (N, H/8, W/8, 128)
        logits4 = self.conv_cls(self.resize(fused, (2 * height, 2 * width)))
        logits = self.resize(logits4, (8 * height, 8 * width))
        return logits, logits4, logits8, logits16


class ICNet(nnx.Module):
    """ICNet: normalised images (N, H, W, 3) to logits at 1, 1/4, 1/8 and 1/16; sides at least 4.

    The first logits are of the image's size where that is a multiple of 8, else larger.
    """

    def __init__(self, config: ICNetConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        w = config.width
        self.pretrained = ResNet(config, rngs=rngs)
        self.conv_sub1 = layers.Sequential(
            ConvBNReLU(3, w // 2, rngs=rngs),
            ConvBNReLU(w // 2, w // 2, rngs=rngs),
            ConvBNReLU(w // 2, w, rngs=rngs),
        )
        self.resize = layers.Resize(align_corners=True, rngs=rngs)
        self.ppm = PyramidPooling(rngs=rngs)
        self.head = Head(w, config.num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> Outputs:
        """Logits of a batch of images at four sizes, `config.output_sizes(H, W)`.

        In train mode each batch norm of the backbone stores the statistics of the half image, then
        those of the quarter.

        Args:
            x: (N, H, W, 3).

        Raises:
            ValueError: H or W below 4.
        """
        height, width = x.shape[1], x.shape[2]
        self.config.check_input(height, width)
        sub1 = self.conv_sub1(x)  # (N, H/8, W/8, 64)
        # The whole backbone both times, for its statistics, although a part of it would do.
        half = self.resize(x, (height // 2, width // 2))
        sub2, _ = self.pretrained(half)  # (N, H/16, W/16, 512)
        quarter = self.resize(x, (height // 4, width // 4))
        _, sub4 = self.pretrained(quarter)  # (N, H/32, W/32, 2048)
        return self.head(sub1, sub2, self.ppm(sub4))
