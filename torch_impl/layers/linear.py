"""Fully connected layers; kernels are (out, in)."""

from __future__ import annotations

from torch import nn

Linear = nn.Linear
