"""A pair of one linear layer, which tests give losses and optimizers."""

from __future__ import annotations

from typing import Any

import jax
import torch
from flax import nnx
from torch import nn

from parity import Port


class Linear(nnx.Module):
    def __init__(self) -> None:
        self.l = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.l(x)


LINEAR = [(r"0\.weight", "l.kernel", (1, 0)), (r"0\.bias", "l.bias")]


def linear(**fields: Any) -> Port:
    torch.manual_seed(0)
    return Port(
        reference=nn.Sequential(nn.Linear(4, 3)),
        port=Linear(),
        inputs=(5, 4),
        weights=LINEAR,
        steps=6,
        **fields,
    )
