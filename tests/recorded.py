"""A small network with its port, to be compared live and by a recording."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax
import torch
from flax import nnx
from torch import nn

from parity import Port
from tests.resnet import Norm

SIZE = (2, 8, 10, 3)
WEIGHTS = [
    (r"(conv|head)\.weight", r"\1.kernel", (2, 3, 1, 0)),
    (r"(conv|head)\.bias", r"\1.bias"),
    (r"norm\.weight", "norm.scale"),
    (r"norm\.bias", "norm.bias"),
    (r"norm\.running_(mean|var)", r"norm.\1"),
    (r"slope\.weight", "slope.weight"),
    (r"norm\.num_batches_tracked", None),
]


class Reference(nn.Module):
    """A convolution, a batch norm, PReLU, a dropout, max-pooling, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.slope = nn.PReLU(6)
        self.drop = nn.Dropout(0.3)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.drop(self.slope(self.norm(self.conv(x))))))


class PReLU(nnx.Module):
    def __init__(self, width: int) -> None:
        self.weight = nnx.Param(jnp.full((width,), 0.25))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(x > 0, x, x * self.weight[...])


class Ported(nnx.Module):
    """The port of `Reference`; `leak` is a fault when it is not 0."""

    def __init__(self, leak: float = 0.0, *, rngs: nnx.Rngs) -> None:
        self.leak = leak
        self.conv = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.norm = Norm(6, rngs=rngs)
        self.slope = PReLU(6)
        self.head = nnx.Conv(6, 4, (1, 1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.slope(self.norm(self.conv(x)))
        return self.head(nnx.max_pool(x, (2, 2), (2, 2)) + self.leak)


def ported(leak: float = 0.0) -> Ported:
    return Ported(leak, rngs=nnx.Rngs(0))


def optimizers() -> tuple:
    decay = optax.add_decayed_weights(1e-2)
    return (
        lambda m: torch.optim.Adam(m.parameters(), 1e-3, weight_decay=1e-2),
        optax.chain(decay, optax.adam(schedules()[1])),
    )


def schedules() -> tuple:
    return lambda step: 1e-3 * 0.5**step, lambda step: 1e-3 * 0.5**step, 5


def live(**changes: object) -> Port:
    """The pair, with its reference at hand."""
    torch.manual_seed(0)
    made = Port(
        Reference(),
        ported(),
        SIZE,
        WEIGHTS,
        optimizers=optimizers(),
        schedules=schedules(),
        steps=2,
    )
    return dataclasses.replace(made, **changes)


def recorded(trace: object, **changes: object) -> Port:
    """A pair whose reference is in a trace."""
    made = Port(
        str(trace),
        ported(),
        weights=WEIGHTS,
        optimizers=(None, optimizers()[1]),
        schedules=(None, *schedules()[1:]),
    )
    return dataclasses.replace(made, **changes)
