"""Scaled dot-product attention, and the rotary position embedding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jax_impl.ops.precision import wide


class Attention(nnx.Module):
    """Attention of several heads, whose channels lie one after the other.

    softmax(q k^T / sqrt(d)) v, d the channels of a head (Vaswani et al. 2017). It computes in its
    inputs' precision, but sums half precision in float32.

    Args:
        heads: Number of query heads.
        kv_heads: Number of key and value heads, of which each serves heads / kv_heads successive
            query heads (Ainslie et al. 2023); as many as `heads` if not given.
        causal: Whether a query sees only the keys up to its own place; the last query has the last
            key's.
        rngs: Not used; every layer takes it.
    """

    def __init__(
        self, heads: int, kv_heads: int | None = None, causal: bool = False, *, rngs: nnx.Rngs
    ) -> None:
        self.heads = heads
        self.kv_heads = heads if kv_heads is None else kv_heads
        self.causal = causal

    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        """(N, T, heads * d), with keys and values (N, S, kv_heads * d), to (N, T, heads * d)."""
        q = self.split(q, self.heads)  # (N, heads, T, d)
        k, v = self.shared(self.split(k, self.kv_heads)), self.shared(self.split(v, self.kv_heads))
        scores = self.masked(self.scores(q, k))  # (N, heads, T, S)
        return self.merged(self.weights(scores) @ v)

    def split(self, x: jax.Array, heads: int) -> jax.Array:
        """(N, T, heads * d) to (N, heads, T, d)."""
        return x.reshape(*x.shape[:-1], heads, -1).swapaxes(1, 2)

    def shared(self, x: jax.Array) -> jax.Array:
        """Repeat key or value heads: (N, kv_heads, S, d) to (N, heads, S, d)."""
        return jnp.repeat(x, self.heads // self.kv_heads, axis=1)

    def scores(self, q: jax.Array, k: jax.Array) -> jax.Array:
        """Scaled products of queries and keys."""
        return q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5

    def masked(self, scores: jax.Array) -> jax.Array:
        """Set the scores of keys that a query must not see to minus infinity."""
        if not self.causal:
            return scores
        t, s = scores.shape[-2:]
        seen = jnp.tri(t, s, s - t, dtype=bool)
        return jnp.where(seen, scores, -jnp.inf)

    def weights(self, scores: jax.Array) -> jax.Array:
        """Softmax over the keys."""
        return jax.nn.softmax(wide(scores), axis=-1).astype(scores.dtype)

    def merged(self, x: jax.Array) -> jax.Array:
        """(N, heads, T, d) to (N, T, heads * d)."""
        x = x.swapaxes(1, 2)
        return x.reshape(*x.shape[:2], -1)


class Rotary(nnx.Module):
    """Rotary position embedding (Su et al. 2021), which turns the halves of each head.

    Channel i of a head's first half and channel i of its second half are turned as a pair by the
    angle p / base^(2 i / d) at place p, as in Hugging Face's Llama; the paper turns neighbours.

    Args:
        head_dim: Channels d of a head.
        base: Base of the wavelengths.
        rngs: Not used; every layer takes it.
    """

    def __init__(self, head_dim: int, base: float = 10_000.0, *, rngs: nnx.Rngs) -> None:
        self.head_dim = head_dim
        self.base = base

    def __call__(self, x: jax.Array, start: int = 0) -> jax.Array:
        """Turn (N, T, heads * d), whose first token stands at place `start`."""
        angles = self.angles(start, x)
        cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
        first, second = self.pairs(x)
        return self.joined(first * cos - second * sin, second * cos + first * sin)

    def angles(self, start: int, x: jax.Array) -> jax.Array:
        """Angles (T, 1, d / 2), in float32 at least."""
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        powers = jnp.arange(0, self.head_dim, 2, dtype=dtype) / self.head_dim
        places = jnp.arange(start, start + x.shape[1], dtype=dtype)
        return places[:, None, None] / self.base**powers

    def pairs(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(N, T, heads * d) to what is turned against each other, twice (N, T, heads, d / 2)."""
        x = x.reshape(*x.shape[:2], -1, 2, self.head_dim // 2)
        return x[..., 0, :], x[..., 1, :]

    def joined(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Undo `pairs`."""
        x = jnp.stack((first, second), axis=-2)
        return x.reshape(*x.shape[:2], -1)
