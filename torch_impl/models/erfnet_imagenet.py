"""ERFNet's encoder as a classifier of ImageNet; parameter names are the published ones.

`jax_impl/models/erfnet_imagenet.py` mirrors this file. Shapes are (N, C, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from parity.spec.networks.erfnet_imagenet import WINDOW, ERFNetImageNetConfig
from torch_impl import layers
from torch_impl.models.erfnet import Encoder


class Features(nn.Module):
    """The encoder and its means."""

    def __init__(self, config: ERFNetImageNetConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.max_pool = layers.MaxPool2d(2, 2)
        self.mean_pool = layers.AvgPool2d(WINDOW)

    def forward(self, x: torch.Tensor, masks: Mapping[str, torch.Tensor]) -> torch.Tensor:
        x = self.encoder(x, masks)  # (N, 128, H/8, W/8)
        return self.mean_pool(self.max_pool(x))  # (N, 128, 1, 1)


class Classifier(nn.Module):
    """One fully connected layer."""

    def __init__(self, config: ERFNetImageNetConfig) -> None:
        super().__init__()
        self.linear = layers.Linear(config.encoder[-1].out_channels, config.num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class ERFNetImageNet(nn.Module):
    """ERFNet for ImageNet: images (N, 3, 224, 224), normalised, to logits (N, classes)."""

    def __init__(self, config: ERFNetImageNetConfig) -> None:
        super().__init__()
        self.config = config
        self.features = Features(config)
        self.classifier = Classifier(config)

    def forward(
        self, x: torch.Tensor, masks: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Compute the logits of a batch of images.

        Args:
            x: (N, 3, H, W).
            masks: For train mode: path of a block -> dropout mask, (N, C), for all of
                `config.dropout_sites(H, W)` whose probability is above 0.

        Raises:
            ValueError: H or W that the network cannot process, or a mask that train mode needs is
                missing.
        """
        self.config.check_input(x.shape[2], x.shape[3])
        x = self.features(x, masks or {})
        return self.classifier(x[:, :, 0, 0])
