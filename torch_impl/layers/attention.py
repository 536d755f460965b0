"""Scaled dot-product attention, and the rotary position embedding."""

from __future__ import annotations

import torch
from torch import nn


class Attention(nn.Module):
    """Attention of several heads, whose channels lie one after the other.

    softmax(q k^T / sqrt(d)) v, d the channels of a head (Vaswani et al. 2017). It computes in its
    inputs' precision, but sums half precision in float32.

    Args:
        heads: Number of query heads.
        kv_heads: Number of key and value heads, of which each serves heads / kv_heads successive
            query heads (Ainslie et al. 2023); as many as `heads` if not given.
        causal: Whether a query sees only the keys up to its own place; the last query has the last
            key's.
    """

    def __init__(self, heads: int, kv_heads: int | None = None, causal: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.kv_heads = heads if kv_heads is None else kv_heads
        self.causal = causal

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """(N, T, heads * d), with keys and values (N, S, kv_heads * d), to (N, T, heads * d)."""
        q = self.split(q, self.heads)  # (N, heads, T, d)
        k, v = self.shared(self.split(k, self.kv_heads)), self.shared(self.split(v, self.kv_heads))
        scores = self.masked(self.scores(q, k))  # (N, heads, T, S)
        return self.merged(self.weights(scores) @ v)

    def split(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        """(N, T, heads * d) to (N, heads, T, d)."""
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    def shared(self, x: torch.Tensor) -> torch.Tensor:
        """Repeat key or value heads: (N, kv_heads, S, d) to (N, heads, S, d)."""
        return x.repeat_interleave(self.heads // self.kv_heads, dim=1)

    def scores(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """Scaled products of queries and keys."""
        return q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5

    def masked(self, scores: torch.Tensor) -> torch.Tensor:
        """Set the scores of keys that a query must not see to minus infinity."""
        if not self.causal:
            return scores
        t, s = scores.shape[-2:]
        seen = torch.ones(t, s, dtype=torch.bool, device=scores.device).tril(s - t)
        return scores.masked_fill(~seen, -torch.inf)

    def weights(self, scores: torch.Tensor) -> torch.Tensor:
        """Softmax over the keys."""
        return scores.softmax(dim=-1)

    def merged(self, x: torch.Tensor) -> torch.Tensor:
        """(N, heads, T, d) to (N, T, heads * d)."""
        return x.transpose(1, 2).flatten(2)


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021), which turns the halves of each head.

    Channel i of a head's first half and channel i of its second half are turned as a pair by the
    angle p / base^(2 i / d) at place p, as in Hugging Face's Llama; the paper turns neighbours.

    Args:
        head_dim: Channels d of a head.
        base: Base of the wavelengths.
    """

    def __init__(self, head_dim: int, base: float = 10_000.0) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.base = base

    def forward(self, x: torch.Tensor, start: int = 0) -> torch.Tensor:
        """Turn (N, T, heads * d), whose first token stands at place `start`."""
        angles = self.angles(start, x)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = self.pairs(x)
        return self.joined(first * cos - second * sin, second * cos + first * sin)

    def angles(self, start: int, x: torch.Tensor) -> torch.Tensor:
        """Angles (T, 1, d / 2), in float32 at least."""
        wide = torch.promote_types(x.dtype, torch.float32)
        powers = torch.arange(0, self.head_dim, 2, dtype=wide, device=x.device) / self.head_dim
        places = torch.arange(start, start + x.shape[1], dtype=wide, device=x.device)
        return places[:, None, None] / self.base**powers

    def pairs(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, T, heads * d) to what is turned against each other, twice (N, T, heads, d / 2)."""
        first, second = x.unflatten(-1, (-1, 2, self.head_dim // 2)).unbind(-2)
        return first, second

    def joined(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Undo `pairs`."""
        return torch.stack((first, second), dim=-2).flatten(2)
