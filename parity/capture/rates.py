"""How networks of either framework name what they drop at random, and how much of it."""

from __future__ import annotations

import re
from typing import Any

# Classes of timm, torchvision, transformers and others, which do nothing where the rate is 0.
PATHS = re.compile(r".*(DropPath|StochasticDepth)")
# Attributes that hold the rate of a dropout.
RATE = re.compile(r"p|rate|(.*_)?prob|.*drop.*")


def drops_paths(layer: Any) -> bool:
    """Return whether a layer's class, by its name, drops whole branches at random."""
    return PATHS.fullmatch(type(layer).__name__) is not None


def set_rates(layer: Any) -> list[str]:
    """Set a layer's attributes that hold a rate to 0; return their names."""
    found = [k for k, v in vars(layer).items() if RATE.fullmatch(k) and _is_rate(v)]
    for name in found:
        setattr(layer, name, 0.0)
    return found


def _is_rate(value: Any) -> bool:
    return isinstance(value, float) and 0 < value <= 1
