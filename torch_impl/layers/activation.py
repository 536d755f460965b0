"""Activations."""

from __future__ import annotations

from torch import nn

PReLU = nn.PReLU
ReLU = nn.ReLU
Sigmoid = nn.Sigmoid
GELU = nn.GELU
SiLU = nn.SiLU
