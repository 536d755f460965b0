"""A Vision Transformer; parameter names are timm's.

`torch_impl/models/vit.py` mirrors this file. Shapes are (N, H, W, C) of images and (N, T, C) of
tokens. Blocks normalise first (Dosovitskiy et al. 2021).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jax_impl import layers
from jax_impl.ops.initial import normal
from parity.spec.networks.vit import ViTConfig


class PatchEmbed(nnx.Module):
    """A token of every patch, by a convolution whose stride is its kernel."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs) -> None:
        self.proj = layers.Conv2d(3, config.width, config.patch, config.patch, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.proj(x).reshape(x.shape[0], -1, self.proj.kernel.shape[-1])


class Embed(nnx.Module):
    """The class token before the patches' tokens, and every token's position added."""

    def __call__(self, x: jax.Array, cls_token: jax.Array, pos_embed: jax.Array) -> jax.Array:
        first = jnp.broadcast_to(cls_token, (x.shape[0], 1, x.shape[-1]))
        return jnp.concatenate((first, x), axis=1) + pos_embed


class SelfAttention(nnx.Module):
    """Queries, keys and values by one matrix, attention, and a projection."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs) -> None:
        self.qkv = layers.Linear(config.width, 3 * config.width, rngs=rngs)
        self.core = layers.Attention(config.heads, rngs=rngs)
        self.proj = layers.Linear(config.width, config.width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = jnp.split(self.qkv(x), 3, axis=-1)
        return self.proj(self.core(q, k, v))


class Mlp(nnx.Module):
    """Two fully connected layers with a GELU between them."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs) -> None:
        self.fc1 = layers.Linear(config.width, config.mlp_width, rngs=rngs)
        self.act = layers.GELU(rngs=rngs)
        self.fc2 = layers.Linear(config.mlp_width, config.width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(self.act(self.fc1(x)))


class Block(nnx.Module):
    """Attention and MLP, each of the normalised tokens and added to the tokens."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs) -> None:
        self.norm1 = layers.LayerNorm(config.width, config.eps, rngs=rngs)
        self.attn = SelfAttention(config, rngs=rngs)
        self.norm2 = layers.LayerNorm(config.width, config.eps, rngs=rngs)
        self.mlp = Mlp(config, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nnx.Module):
    """ViT: images (N, H, W, 3), normalised, to logits (N, classes), by the class token."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.cls_token = nnx.Param(normal(rngs, (1, 1, config.width), 0.02))
        self.pos_embed = nnx.Param(normal(rngs, (1, config.tokens, config.width), 0.02))
        self.patch_embed = PatchEmbed(config, rngs=rngs)
        self.embed = Embed()
        self.blocks = layers.Sequential(*(Block(config, rngs=rngs) for _ in range(config.depth)))
        self.norm = layers.LayerNorm(config.width, config.eps, rngs=rngs)
        self.head = layers.Linear(config.width, config.num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits of a batch of images.

        Args:
            x: (N, H, W, 3).

        Raises:
            ValueError: H or W that the network cannot process; see `ViTConfig.check_input`.
        """
        self.config.check_input(x.shape[1], x.shape[2])
        x = self.patch_embed(x)  # (N, H W / patch^2, width)
        x = self.embed(x, self.cls_token[...], self.pos_embed[...])  # (N, 1 + ..., width)
        x = self.norm(self.blocks(x))
        return self.head(x[:, 0])
