"""Batch normalisation."""

from __future__ import annotations

from torch import nn

BatchNorm2d = nn.BatchNorm2d
