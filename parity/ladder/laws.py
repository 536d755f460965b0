"""Distributions of initial weights, and how far a sample is from one."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

ALPHA = 1e-9  # how often a sound sample may be called unsound


@dataclasses.dataclass(frozen=True)
class Law:
    """The distribution a tensor is drawn from.

    Attributes:
        kind: `constant`, `uniform`, `normal`, or `truncated`: a normal one cut at two standard
            deviations, as JAX's initialisers draw.
        number: The constant, the bound on either side, or the standard deviation; of a truncated
            one that of the normal distribution which is cut.
    """

    kind: str
    number: float

    def distance(self, sample: np.ndarray) -> float:
        """Return the Kolmogorov distance; for a constant, the share of other numbers."""
        if self.kind == "constant":
            return float((sample != np.float32(self.number)).mean())
        x = np.sort(np.ravel(sample)).astype(np.float64) / self.number
        below = _below(self.kind, x)
        n = len(x)
        above = np.arange(1, n + 1) / n - below
        return float(max(above.max(), (below - np.arange(n) / n).max()))

    def limit(self, count: int) -> float:
        """Return the limit of the Kolmogorov distance for this many numbers."""
        return 0.0 if self.kind == "constant" else math.sqrt(math.log(2 / ALPHA) / (2 * count))

    def __str__(self) -> str:
        return {
            "constant": "{:g}",
            "uniform": "U(-{0:.4g}, {0:.4g})",
            "normal": "N(0, {:.4g})",
            "truncated": "N(0, {:.4g}), cut at two standard deviations",
        }[self.kind].format(self.number)


def _below(kind: str, x: np.ndarray) -> np.ndarray:
    """Return the distribution function of number 1."""
    if kind == "uniform":
        return np.clip((x + 1) / 2, 0, 1)
    if kind == "normal":
        return _normal(x)
    ends = _normal(np.array([-2.0, 2.0]))
    return np.clip((_normal(x) - ends[0]) / (ends[1] - ends[0]), 0, 1)


def _normal(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = torch.special.ndtr(torch.tensor(x)).numpy()
    return found
