"""Pooling and unpooling."""

from __future__ import annotations

from torch import nn

MaxPool2d = nn.MaxPool2d
MaxUnpool2d = nn.MaxUnpool2d
AdaptiveAvgPool2d = nn.AdaptiveAvgPool2d
AvgPool2d = nn.AvgPool2d
