"""Faulty layers and blocks of Transformers, as classes that override a correct one's class.

See `layer_faults`, whose `inject_class` puts them in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jax_impl import layers

FAR = -1e9  # a score that hides a key, and leaves a row of nothing else uniform


class TanhGELU(nnx.Module):
    """GELU by its approximation with a tanh, which is JAX's default."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        return jax.nn.gelu(x, approximate=True)


class IsSiLU(nnx.Module):
    """SiLU."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        return jax.nn.silu(x)


class IsGELU(nnx.Module):
    """GELU."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        return jax.nn.gelu(x, approximate=False)


class LeftOut(nnx.Module):
    """Does nothing."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        return x


def spread(x: jax.Array, centred: bool, unbiased: bool = False) -> tuple[jax.Array, jax.Array]:
    """Return what a norm divides, and the mean square of it."""
    x = x - x.mean(axis=-1, keepdims=True) if centred else x
    count = x.shape[-1] - unbiased
    return x, jnp.square(x).sum(axis=-1, keepdims=True) / count


def affine(layer: Any, y: jax.Array, scale: jax.Array | None = None) -> jax.Array:
    """Apply a norm's parameters."""
    y = y * (layer.scale[...] if scale is None else scale)
    return y + layer.bias[...] if hasattr(layer, "bias") else y


class EpsOutside(nnx.Module):
    """Adds the eps to the root, not below it."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        x, square = spread(x, centred=hasattr(self, "bias"))
        return affine(self, x / (jnp.sqrt(square) + self.eps))


class Unbiased(nnx.Module):
    """Divides by one number fewer."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        x, square = spread(x, centred=True, unbiased=True)
        return affine(self, x / jnp.sqrt(square + self.eps))


class Centred(nnx.Module):
    """Subtracts the mean, as a layer norm does."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        x, square = spread(x, centred=True)
        return affine(self, x / jnp.sqrt(square + self.eps))


class NotCentred(nnx.Module):
    """Subtracts no mean, as an RMS norm does."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        x, square = spread(x, centred=False)
        return affine(self, x / jnp.sqrt(square + self.eps))


class OneMore(nnx.Module):
    """Multiplies by 1 + weight, as Gemma's norms do."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        x, square = spread(x, centred=hasattr(self, "bias"))
        return affine(self, x / jnp.sqrt(square + self.eps), 1 + self.scale[...])


def scaled(factor: Callable[[Any, jax.Array], float], name: str) -> type:
    """Attention whose scores are multiplied by a factor of their sound ones."""

    class Scaled(layers.Attention):
        """Scales otherwise."""

        def scores(self, q: jax.Array, k: jax.Array) -> jax.Array:
            return super().scores(q, k) * factor(self, q)

    Scaled.__name__ = name
    return Scaled


ByD = scaled(lambda layer, q: q.shape[-1] ** -0.5, "ByD")
Unscaled = scaled(lambda layer, q: q.shape[-1] ** 0.5, "Unscaled")
ByWidth = scaled(lambda layer, q: layer.heads**-0.5, "ByWidth")


class OverQueries(layers.Attention):
    """Takes the softmax over the queries."""

    def weights(self, scores: jax.Array) -> jax.Array:
        return jax.nn.softmax(scores, axis=-2)


def masking(seen: Callable[[int, int], jax.Array], name: str) -> type:
    """Attention in which a query sees other keys."""

    class Masking(layers.Attention):
        """Masks otherwise."""

        def masked(self, scores: jax.Array) -> jax.Array:
            return jnp.where(seen(*scores.shape[-2:]), scores, FAR)

    Masking.__name__ = name
    return Masking


NoMask = masking(lambda t, s: jnp.ones((t, s), bool), "NoMask")
SeesNext = masking(lambda t, s: jnp.tri(t, s, s - t + 1, dtype=bool), "SeesNext")
NotItself = masking(lambda t, s: jnp.tri(t, s, s - t - 1, dtype=bool), "NotItself")
FromFirst = masking(lambda t, s: jnp.tri(t, s, 0, dtype=bool), "FromFirst")
SeesLater = masking(lambda t, s: ~jnp.tri(t, s, s - t, dtype=bool), "SeesLater")


class NotTransposed(layers.Attention):
    """Merges the heads as they lie, without changing places with the tokens."""

    def merged(self, x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], x.shape[2], -1)


class Interleaved(layers.Attention):
    """Takes every so manieth channel for a head's, not one after the other."""

    def split(self, x: jax.Array, heads: int) -> jax.Array:
        return x.reshape(*x.shape[:-1], -1, heads).transpose(0, 3, 1, 2)


class Tiled(layers.Attention):
    """Repeats all key heads in turn, where each is to be repeated."""

    def shared(self, x: jax.Array) -> jax.Array:
        return jnp.tile(x, (1, self.heads // self.kv_heads, 1, 1))


class Neighbours(layers.Rotary):
    """Turns neighbours against each other, as the paper does, not halves."""

    def pairs(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = x.reshape(*x.shape[:2], -1, self.head_dim // 2, 2)
        return x[..., 0], x[..., 1]

    def joined(self, first: jax.Array, second: jax.Array) -> jax.Array:
        x = jnp.stack((first, second), axis=-1)
        return x.reshape(*x.shape[:2], -1)


class FromOne(layers.Rotary):
    """Counts places from 1."""

    def angles(self, start: int, x: jax.Array) -> jax.Array:
        return super().angles(start + 1, x)


class Backwards(layers.Rotary):
    """Turns the other way."""

    def angles(self, start: int, x: jax.Array) -> jax.Array:
        return -super().angles(start, x)


class FromZeroAgain(layers.Rotary):
    """Counts places from 0 behind a cache, too."""

    def angles(self, start: int, x: jax.Array) -> jax.Array:
        return super().angles(0, x)


class TimesRoot(nnx.Module):
    """Multiplies by the root of the width, as the first Transformer does."""

    def __call__(self: Any, ids: jax.Array) -> jax.Array:
        y = super().__call__(ids)
        return y * y.shape[-1] ** 0.5


class TokenLast(nnx.Module):
    """Puts the class token behind the others."""

    def __call__(self: Any, x: jax.Array, cls_token: jax.Array, pos_embed: jax.Array) -> jax.Array:
        last = jnp.broadcast_to(cls_token, (x.shape[0], 1, x.shape[-1]))
        return jnp.concatenate((x, last), axis=1) + pos_embed


class TokenWithoutPlace(nnx.Module):
    """Adds positions to the patches' tokens alone."""

    def __call__(self: Any, x: jax.Array, cls_token: jax.Array, pos_embed: jax.Array) -> jax.Array:
        return super().__call__(x, cls_token, pos_embed.at[:, 0].set(0))


class ReadTransposed(nnx.Module):
    """Computes with a transposed kernel; the stored one is sound."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...]
        self.kernel.set_value(kernel.T)
        try:
            return super().__call__(x)
        finally:
            self.kernel.set_value(kernel)


class ColumnsFirst(nnx.Module):
    """Numbers patches down the columns."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        y = self.proj(x)
        return y.swapaxes(1, 2).reshape(y.shape[0], -1, y.shape[-1])


class QVK(nnx.Module):
    """Takes the second third for values and the last for keys."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        q, v, k = jnp.split(self.qkv(x), 3, axis=-1)
        return self.proj(self.core(q, k, v))


class PerHead(nnx.Module):
    """Takes each head's q, k and v for successive channels."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        y = self.qkv(x)
        y = y.reshape(*y.shape[:2], self.core.heads, 3, -1)
        q, k, v = (y[..., i, :].reshape(x.shape) for i in range(3))
        return self.proj(self.core(q, k, v))


class KeysNotTurned(nnx.Module):
    """Turns queries alone; what the turned keys should be is thrown away."""

    def __call__(self: Any, x: jax.Array, past: Any) -> Any:
        start = past[0].shape[1] if past else 0
        q, k, v = self.rotary(self.q_proj(x), start), self.k_proj(x), self.v_proj(x)
        self.rotary(k, start)
        if past:
            k, v = jnp.concatenate((past[0], k), axis=1), jnp.concatenate((past[1], v), axis=1)
        return self.o_proj(self.core(q, k, v)), (k, v)


class ValuesTurned(nnx.Module):
    """Turns values, too."""

    def __call__(self: Any, x: jax.Array, past: Any) -> Any:
        start = past[0].shape[1] if past else 0
        q, k = self.rotary(self.q_proj(x), start), self.rotary(self.k_proj(x), start)
        v = self.v_proj(x)
        angles, (first, second) = self.rotary.angles(start, v), self.rotary.pairs(v)
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        v = self.rotary.joined(first * cos - second * sin, second * cos + first * sin)
        if past:
            k, v = jnp.concatenate((past[0], k), axis=1), jnp.concatenate((past[1], v), axis=1)
        return self.o_proj(self.core(q, k, v)), (k, v)


class GateSwapped(nnx.Module):
    """Activates what should be gated."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        gate, up = self.gate_proj(x), self.up_proj(x)
        return self.down_proj(self.act_fn(up) * gate)


class NotGated(nnx.Module):
    """Adds the gate, where it is to be multiplied."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        return self.down_proj(self.act_fn(self.gate_proj(x)) + self.up_proj(x))


class PostNorm(nnx.Module):
    """Normalises the sums, as the first Transformer does."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


class NormalisedShortcut(nnx.Module):
    """Adds the branches to the normalised tokens."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        x = self.norm1(x)
        x = x + self.attn(x)
        x = self.norm2(x)
        return x + self.mlp(x)


class DecoderPostNorm(nnx.Module):
    """Normalises the sums, as the first Transformer does."""

    def __call__(self: Any, x: jax.Array, past: Any) -> Any:
        y, present = self.self_attn(x, past)
        x = self.input_layernorm(x + y)
        return self.post_attention_layernorm(x + self.mlp(x)), present


class DecoderNormalisedShortcut(nnx.Module):
    """Adds the branches to the normalised tokens."""

    def __call__(self: Any, x: jax.Array, past: Any) -> Any:
        x = self.input_layernorm(x)
        y, present = self.self_attn(x, past)
        x = self.post_attention_layernorm(x + y)
        return x + self.mlp(x), present


class Parallel(nnx.Module):
    """Feeds the MLP with what entered the block, as GPT-J does, not with the attention's sum."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        return x + self.attn(self.norm1(x)) + self.mlp(self.norm2(x))
