"""Embeddings of token ids; tables are (tokens, channels)."""

from __future__ import annotations

import jax
from flax import nnx

from jax_impl.ops.initial import normal
from jax_impl.ops.precision import cast


class Embedding(nnx.Module):
    """Integers (...) to their rows (..., channels); rows start as PyTorch's do: N(0, 1)."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *, rngs: nnx.Rngs) -> None:
        self.compute_dtype: str | None = None  # as of a convolution
        self.embedding = nnx.Param(normal(rngs, (num_embeddings, embedding_dim)))

    def __call__(self, ids: jax.Array) -> jax.Array:
        (table,) = cast(self.compute_dtype, self.embedding[...])
        return table[ids]
