"""A network and its port under other names, for tests."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import torch
from flax import nnx
from torch import nn

from parity import Port
from tests.resnet import Norm

SIZE = (2, 8, 10, 3)
STATISTICS = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


class Reference(nn.Module):
    """Two branches, a dropout of PyTorch's own, nested outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> dict:
        x = self.act(self.norm(self.stem(x)))
        x = self.drop(x.mean((2, 3)))
        if scale is not None:
            x = x * scale[:, None]
        return {"logits": self.head(x), "parts": (x, x.sum(1))}


class Ported(nnx.Module):
    """The port of `Reference`, under other names."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(3, 8, (3, 3), padding=((1, 1), (1, 1)), rngs=rngs)
        self.second = Norm(8, rngs=rngs)
        self.quiet = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x: jax.Array, scale: jax.Array | None = None) -> dict:
        x = self.quiet(jax.nn.relu(self.second(self.first(x))).mean((1, 2)))
        if scale is not None:
            x = x * scale[:, None]
        return {"parts": (x, x.sum(1)), "logits": self.last(x)}


MAP = {
    "first.kernel": ("stem.weight", (2, 3, 1, 0)),
    "first.bias": ("stem.bias", None),
    **{f"second.{ours}": (f"norm.{theirs}", None) for theirs, ours in STATISTICS.items()},
    "last.kernel": ("head.weight", (1, 0)),
    "last.bias": ("head.bias", None),
}


def reference() -> Reference:
    torch.manual_seed(0)
    module = Reference()
    with torch.no_grad():
        norm: Any = module.norm
        for tensor in (norm.weight, norm.running_var):
            tensor.uniform_(0.5, 1.5)
        for tensor in (norm.bias, norm.running_mean):
            tensor.normal_(0, 0.1)
    return module


def ported() -> Ported:
    return Ported(rngs=nnx.Rngs(0))


def port(**changes: Any) -> Port:
    made = Port(reference(), ported(), inputs=SIZE, weights=MAP)
    return dataclasses.replace(made, **changes)


def plain(params: dict, x: jax.Array) -> jax.Array:
    """A linear map, then a ReLU."""
    return jax.nn.relu(x @ params["w"] + params["b"])
