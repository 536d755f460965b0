"""Containers of other layers."""

from __future__ import annotations

from torch import nn

Identity = nn.Identity
ModuleList = nn.ModuleList
Sequential = nn.Sequential
