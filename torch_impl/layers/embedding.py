"""Embeddings of token ids; tables are (tokens, channels)."""

from __future__ import annotations

from torch import nn

Embedding = nn.Embedding
