"""References whose layers work in place."""

from __future__ import annotations

import jax
import torch
from flax import nnx
from torch import nn

from parity import Port, check


class InPlace(nn.Module):
    """Works in place on its input, and on the value of a layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 4)
        self.act = nn.ReLU(inplace=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.act(self.fc(self.first(x))))


class Activation(nnx.Module):
    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x)


class Ported(nnx.Module):
    def __init__(self) -> None:
        self.first, self.act = Activation(), Activation()
        self.fc = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(self.act(self.fc(self.first(x))))


def test_layers_that_work_in_place_are_compared_alone_and_in_the_network() -> None:
    """Catches a right port refused: PyTorch raises where a leaf with a gradient is changed."""
    rules = [(r"(.*)\.weight", r"\1.kernel", (1, 0)), (r"(.*)\.bias", r"\1.bias")]
    port = Port(InPlace(), Ported(), (5, 4), rules)
    report = check(port)
    report.assert_faithful()
    assert {c.layer for c in report.checks if c.rung == "L1"} >= {"first", "act"}
