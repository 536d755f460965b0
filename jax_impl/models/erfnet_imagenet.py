"""ERFNet's encoder as a classifier of ImageNet; parameter names are the published ones.

`torch_impl/models/erfnet_imagenet.py` mirrors this file. Shapes are (N, H, W, C).
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
from flax import nnx

from jax_impl import layers
from jax_impl.models.erfnet import Encoder
from parity.spec.networks.erfnet_imagenet import WINDOW, ERFNetImageNetConfig


class Features(nnx.Module):
    """The encoder and its means."""

    def __init__(self, config: ERFNetImageNetConfig, *, rngs: nnx.Rngs) -> None:
        self.encoder = Encoder(config, rngs=rngs)
        self.max_pool = layers.MaxPool2d(2, 2, rngs=rngs)
        self.mean_pool = layers.AvgPool2d(WINDOW, rngs=rngs)

    def __call__(self, x: jax.Array, masks: Mapping[str, jax.Array]) -> jax.Array:
        x = self.encoder(x, masks)  # (N, H/8, W/8, 128)
        return self.mean_pool(self.max_pool(x))  # (N, 1, 1, 128)


class Classifier(nnx.Module):
    """One fully connected layer."""

    def __init__(self, config: ERFNetImageNetConfig, *, rngs: nnx.Rngs) -> None:
        self.linear = layers.Linear(config.encoder[-1].out_channels, config.num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.linear(x)


class ERFNetImageNet(nnx.Module):
    """ERFNet for ImageNet: images (N, 224, 224, 3), normalised, to logits (N, classes)."""

    def __init__(self, config: ERFNetImageNetConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.features = Features(config, rngs=rngs)
        self.classifier = Classifier(config, rngs=rngs)

    def __call__(self, x: jax.Array, masks: Mapping[str, jax.Array] | None = None) -> jax.Array:
        """Compute the logits of a batch of images.

        Args:
            x: (N, H, W, 3).
            masks: For train mode: path of a block -> dropout mask, (N, C), for all of
                `config.dropout_sites(H, W)` whose probability is above 0.

        Raises:
            ValueError: H or W that the network cannot process, or a mask that train mode needs is
                missing.
        """
        self.config.check_input(x.shape[1], x.shape[2])
        x = self.features(x, masks or {})
        return self.classifier(x[:, 0, 0, :])
