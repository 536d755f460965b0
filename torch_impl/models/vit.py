"""A Vision Transformer; parameter names are timm's.

`jax_impl/models/vit.py` mirrors this file. Shapes are (N, C, H, W) of images and (N, T, C) of
tokens. Blocks normalise first (Dosovitskiy et al. 2021).
"""

from __future__ import annotations

import torch
from torch import nn

from parity.spec.networks.vit import ViTConfig
from torch_impl import layers


class PatchEmbed(nn.Module):
    """A token of every patch, by a convolution whose stride is its kernel."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.proj = layers.Conv2d(3, config.width, config.patch, config.patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Embed(nn.Module):
    """The class token before the patches' tokens, and every token's position added."""

    def forward(
        self, x: torch.Tensor, cls_token: torch.Tensor, pos_embed: torch.Tensor
    ) -> torch.Tensor:
        first = cls_token.expand(x.shape[0], -1, -1)
        return torch.cat((first, x), dim=1) + pos_embed


class SelfAttention(nn.Module):
    """Queries, keys and values by one matrix, attention, and a projection."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.qkv = layers.Linear(config.width, 3 * config.width)
        self.core = layers.Attention(config.heads)
        self.proj = layers.Linear(config.width, config.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(self.core(q, k, v))


class Mlp(nn.Module):
    """Two fully connected layers with a GELU between them."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = layers.Linear(config.width, config.mlp_width)
        self.act = layers.GELU()
        self.fc2 = layers.Linear(config.mlp_width, config.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Attention and MLP, each of the normalised tokens and added to the tokens."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = layers.LayerNorm(config.width, config.eps)
        self.attn = SelfAttention(config)
        self.norm2 = layers.LayerNorm(config.width, config.eps)
        self.mlp = Mlp(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """ViT: images (N, 3, H, W), normalised, to logits (N, classes), by the class token."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.randn(1, 1, config.width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, config.tokens, config.width) * 0.02)
        self.patch_embed = PatchEmbed(config)
        self.embed = Embed()
        self.blocks = layers.Sequential(*(Block(config) for _ in range(config.depth)))
        self.norm = layers.LayerNorm(config.width, config.eps)
        self.head = layers.Linear(config.width, config.num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of images.

        Args:
            x: (N, 3, H, W).

        Raises:
            ValueError: H or W that the network cannot process; see `ViTConfig.check_input`.
        """
        self.config.check_input(x.shape[2], x.shape[3])
        x = self.patch_embed(x)  # (N, H W / patch^2, width)
        x = self.embed(x, self.cls_token, self.pos_embed)  # (N, 1 + H W / patch^2, width)
        x = self.norm(self.blocks(x))
        return self.head(x[:, 0])
