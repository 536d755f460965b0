"""Layers of one's own classes that do more than what they are made of, or follow a fault."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from parity import Port, check
from parity.report.report import Report


class ScaledEmbedding(nn.Embedding):
    """A class of one's own that does more than the layer of PyTorch's that it is made of."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return 4 * super().forward(tokens)


class ScaledTokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = ScaledEmbedding(10, 8), nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(tokens))


class HookedTokens(ScaledTokens):
    """Its embedding is PyTorch's, and a hook scales it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.embed.register_forward_hook(lambda layer, args, made: 4 * made)


class PlainTokens(nnx.Module):
    def __init__(self, scale: float, epsilon: float = 0.0) -> None:
        self.embed = nnx.Embed(10, 8, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(8, 3, rngs=nnx.Rngs(0))
        self.scale, self.epsilon = scale, epsilon

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.head(self.scale * self.embed(tokens) + self.epsilon)


def of_tokens(port: PlainTokens, reference: type[nn.Module] = ScaledTokens) -> Report:
    weights = {
        "embed.embedding": ("embed.weight", None),
        "head.kernel": ("head.weight", (1, 0)),
        "head.bias": ("head.bias", None),
    }
    tokens = np.random.default_rng(0).integers(0, 10, (5, 4))
    return check(Port(reference(), port, inputs=(tokens,), weights=weights))


@pytest.mark.parametrize("reference", [ScaledTokens, HookedTokens])
def test_a_layer_of_the_reference_that_does_more_is_no_pair(reference: type[nn.Module]) -> None:
    """Catches a right port failed: the reference's own class, or a hook, scales its embedding."""
    report = of_tokens(PlainTokens(4.0), reference)
    report.assert_faithful()
    assert ("embed", "embed") not in {(p.reference, p.port) for p in report.pairs}


@pytest.mark.parametrize("port", [PlainTokens(3.0), PlainTokens(4.0, 0.1)])
def test_such_a_layer_is_not_blamed_for_what_stands_behind_it(port: PlainTokens) -> None:
    """Catches a port that passes, or whose embedding is blamed for another scale outside of it."""
    report = of_tokens(port)
    assert not report.ok
    fault = report.fault()
    assert fault is not None
    assert fault.layer == "head", fault


class OwnNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class PortedNorm(nnx.Module):
    def __init__(self) -> None:
        self.weight = nnx.Param(jnp.ones(8))

    def __call__(self, x: jax.Array) -> jax.Array:
        mean = jnp.square(x).mean(-1, keepdims=True)
        return self.weight[...] * x * jax.lax.rsqrt(mean + 1e-6)


class BeforeNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.norm, self.head = nn.Linear(4, 8), OwnNorm(), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(torch.nn.functional.gelu(self.fc(x))))


class WrongBeforeNorm(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.fc, self.norm = nnx.Linear(4, 8, rngs=rngs), PortedNorm()
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.norm(jax.nn.gelu(self.fc(x))))  # the other GELU


def test_a_layer_of_ones_own_behind_a_fault_is_a_pair() -> None:
    """Catches a right layer that is not compared, since it is fed something else."""
    weights = {
        "fc.kernel": ("fc.weight", (1, 0)),
        "fc.bias": ("fc.bias", None),
        "norm.weight": ("norm.weight", None),
        "head.kernel": ("head.weight", (1, 0)),
        "head.bias": ("head.bias", None),
    }
    report = check(Port(BeforeNorm(), WrongBeforeNorm(), (5, 4), weights))
    assert ("norm", "norm") in {(p.reference, p.port) for p in report.pairs if p.kind == "layer"}
    assert {c.ok for c in report.checks if c.layer == "norm" and c.rung == "L1"} == {True}
    assert [cause.fault for cause in report.causes] == ["gelu-approximation"], report.causes
