"""A decoder in the style of Llama; parameter names are Hugging Face's.

`jax_impl/models/decoder.py` mirrors this file. Shapes are (N, T) of token ids and (N, T, C) of
tokens. Keys and values of earlier tokens may be handed in, and are handed out with those of the
new ones.
"""

from __future__ import annotations

import torch
from torch import nn

from parity.spec.networks.decoder import DecoderConfig
from torch_impl import layers

KeysValues = tuple[torch.Tensor, torch.Tensor]  # twice (N, S, kv_width), the keys turned
Cache = tuple[KeysValues, ...]  # of every layer; empty before the first token


class SelfAttention(nn.Module):
    """Grouped-query attention of turned queries and keys, without biases."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.q_proj = layers.Linear(config.width, config.query_width, bias=False)
        self.k_proj = layers.Linear(config.width, config.kv_width, bias=False)
        self.v_proj = layers.Linear(config.width, config.kv_width, bias=False)
        self.rotary = layers.Rotary(config.head_dim, config.base)
        self.core = layers.Attention(config.heads, config.kv_heads, causal=True)
        self.o_proj = layers.Linear(config.query_width, config.width, bias=False)

    def forward(self, x: torch.Tensor, past: KeysValues | None) -> tuple[torch.Tensor, KeysValues]:
        start = past[0].shape[1] if past else 0
        q, k = self.rotary(self.q_proj(x), start), self.rotary(self.k_proj(x), start)
        v = self.v_proj(x)
        if past:
            k, v = torch.cat((past[0], k), dim=1), torch.cat((past[1], v), dim=1)
        return self.o_proj(self.core(q, k, v)), (k, v)


class Mlp(nn.Module):
    """SwiGLU: a gate times a linear layer (Shazeer 2020)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = layers.Linear(config.width, config.mlp_width, bias=False)
        self.up_proj = layers.Linear(config.width, config.mlp_width, bias=False)
        self.act_fn = layers.SiLU()
        self.down_proj = layers.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Attention and MLP, each of the normalised tokens and added to the tokens."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config)
        self.mlp = Mlp(config)
        self.input_layernorm = layers.RMSNorm(config.width, config.eps)
        self.post_attention_layernorm = layers.RMSNorm(config.width, config.eps)

    def forward(self, x: torch.Tensor, past: KeysValues | None) -> tuple[torch.Tensor, KeysValues]:
        y, present = self.self_attn(self.input_layernorm(x), past)
        x = x + y
        return x + self.mlp(self.post_attention_layernorm(x)), present


class Transformer(nn.Module):
    """Token ids to tokens after the last norm."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = layers.Embedding(config.num_classes, config.width)
        self.layers = layers.ModuleList(DecoderLayer(config) for _ in range(config.depth))
        self.norm = layers.RMSNorm(config.width, config.eps)

    def forward(self, ids: torch.Tensor, cache: Cache) -> tuple[torch.Tensor, Cache]:
        x = self.embed_tokens(ids)
        made = []
        for i, layer in enumerate(self.layers):
            x, present = layer(x, cache[i] if cache else None)
            made.append(present)
        return self.norm(x), tuple(made)


class Decoder(nn.Module):
    """Decoder: token ids (N, T) to logits (N, T, tokens) of each next token."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Transformer(config)
        if not config.tied:
            self.lm_head = layers.Linear(config.width, config.num_classes, bias=False)

    def forward(
        self, ids: torch.Tensor, cache: Cache | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, Cache]:
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

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Logits by the embedding's weights."""
        return x @ self.model.embed_tokens.weight.T
