"""A decoder in the style of Llama; parameter names are Hugging Face's.

`torch_impl/models/decoder.py` mirrors this file. Shapes are (N, T) of token ids and (N, T, C) of
tokens. Keys and values of earlier tokens may be handed in, and are handed out with those of the
new ones.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jax_impl import layers
from parity.spec.networks.decoder import DecoderConfig

KeysValues = tuple[jax.Array, jax.Array]  # twice (N, S, kv_width), the keys turned
Cache = tuple[KeysValues, ...]  # of every layer; empty before the first token


class SelfAttention(nnx.Module):
    """Grouped-query attention of turned queries and keys, without biases."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        self.q_proj = layers.Linear(config.width, config.query_width, bias=False, rngs=rngs)
        self.k_proj = layers.Linear(config.width, config.kv_width, bias=False, rngs=rngs)
        self.v_proj = layers.Linear(config.width, config.kv_width, bias=False, rngs=rngs)
        self.rotary = layers.Rotary(config.head_dim, config.base, rngs=rngs)
        self.core = layers.Attention(config.heads, config.kv_heads, causal=True, rngs=rngs)
        self.o_proj = layers.Linear(config.query_width, config.width, bias=False, rngs=rngs)

    def __call__(self, x: jax.Array, past: KeysValues | None) -> tuple[jax.Array, KeysValues]:
        start = past[0].shape[1] if past else 0
        q, k = self.rotary(self.q_proj(x), start), self.rotary(self.k_proj(x), start)
        v = self.v_proj(x)
        if past:
            k, v = jnp.concatenate((past[0], k), axis=1), jnp.concatenate((past[1], v), axis=1)
        return self.o_proj(self.core(q, k, v)), (k, v)


class Mlp(nnx.Module):
    """SwiGLU: a gate times a linear layer (Shazeer 2020)."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        self.gate_proj = layers.Linear(config.width, config.mlp_width, bias=False, rngs=rngs)
        self.up_proj = layers.Linear(config.width, config.mlp_width, bias=False, rngs=rngs)
        self.act_fn = layers.SiLU(rngs=rngs)
        self.down_proj = layers.Linear(config.mlp_width, config.width, bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nnx.Module):
    """Attention and MLP, each of the normalised tokens and added to the tokens."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        self.self_attn = SelfAttention(config, rngs=rngs)
        self.mlp = Mlp(config, rngs=rngs)
        self.input_layernorm = layers.RMSNorm(config.width, config.eps, rngs=rngs)
        self.post_attention_layernorm = layers.RMSNorm(config.width, config.eps, rngs=rngs)

    def __call__(self, x: jax.Array, past: KeysValues | None) -> tuple[jax.Array, KeysValues]:
        y, present = self.self_attn(self.input_layernorm(x), past)
        x = x + y
        return x + self.mlp(self.post_attention_layernorm(x)), present


class Transformer(nnx.Module):
    """Token ids to tokens after the last norm."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        self.embed_tokens = layers.Embedding(config.num_classes, config.width, rngs=rngs)
        self.layers = layers.ModuleList(
            DecoderLayer(config, rngs=rngs) for _ in range(config.depth)
        )
        self.norm = layers.RMSNorm(config.width, config.eps, rngs=rngs)

    def __call__(self, ids: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        x = self.embed_tokens(ids)
        made = []
        for i, layer in enumerate(self.layers):
            x, present = layer(x, cache[i] if cache else None)
            made.append(present)
        return self.norm(x), tuple(made)


class Decoder(nnx.Module):
    """Decoder: token ids (N, T) to logits (N, T, tokens) of each next token."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.model = Transformer(config, rngs=rngs)
        if not config.tied:
            self.lm_head = layers.Linear(config.width, config.num_classes, bias=False, rngs=rngs)

    def __call__(
        self, ids: jax.Array, cache: Cache | None = None
    ) -> jax.Array | tuple[jax.Array, Cache]:
        """Logits of a batch of sequences.

        Args:
            ids: (N, T) integers, one after the other.
            cache: Keys and values of the tokens before them, as an earlier call returned them;
                empty before the first. None: as before the first, and no cache is returned.

        Returns:
            The logits; with a cache (logits, the cache with the new tokens).

        Raises:
            ValueError: There is no token.
        """
        self.config.check_input(ids.shape[1])
        x, made = self.model(ids, cache or ())
        logits = self.attend(x) if self.config.tied else self.lm_head(x)
        return logits if cache is None else (logits, made)

    def attend(self, x: jax.Array) -> jax.Array:
        """Logits by the embedding's weights."""
        return x @ self.model.embed_tokens.embedding[...].T
