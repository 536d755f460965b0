"""Resizing and adaptive pooling against PyTorch's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_impl.layers
import torch_impl.layers

RNGS = nnx.Rngs(0)
SIZES = [((5, 7), (9, 20)), ((9, 20), (5, 7)), ((1, 6), (4, 1)), ((3, 4), (3, 8))]


def assert_alike(a: torch.nn.Module, b: nnx.Module, shape: tuple[int, int], *args: object) -> None:
    """Output and gradient, in float64."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *shape, 3))
    t = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    expected = a(t, *args)
    with jax.enable_x64(True):
        found, pull = jax.vjp(lambda x: b(x, *args), jnp.asarray(x))
        assert found.shape == tuple(expected.permute(0, 2, 3, 1).shape)
        upstream = rng.normal(size=found.shape)
        (gradient,) = pull(jnp.asarray(upstream))
    expected.backward(torch.tensor(upstream.transpose(0, 3, 1, 2).copy()))
    near = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(found, expected.detach().permute(0, 2, 3, 1), **near)
    np.testing.assert_allclose(gradient, t.grad.permute(0, 2, 3, 1), **near)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_resize(shape: tuple[int, int], size: tuple[int, int], align_corners: bool) -> None:
    """Catches other corners, antialiasing, and a gradient lost at the rim."""
    a = torch_impl.layers.Resize(align_corners)
    assert_alike(a, jax_impl.layers.Resize(align_corners, rngs=RNGS), shape, size)


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
@pytest.mark.parametrize("shape", [(8, 16), (7, 5), (2, 3)])
def test_adaptive_avg_pool(bins: int, shape: tuple[int, int]) -> None:
    """Catches windows that do not overlap as PyTorch's, above all on small maps."""
    a = torch_impl.layers.AdaptiveAvgPool2d(bins)
    assert_alike(a, jax_impl.layers.AdaptiveAvgPool2d(bins, rngs=RNGS), shape)


def test_linear() -> None:
    """Catches a kernel that is not transposed."""
    a = torch_impl.layers.Linear(5, 3)
    b = jax_impl.layers.Linear(5, 3, rngs=RNGS)
    b.kernel.set_value(jnp.asarray(a.weight.detach().numpy().T))
    b.bias.set_value(jnp.asarray(a.bias.detach().numpy()))
    x = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    np.testing.assert_allclose(b(jnp.asarray(x)), a(torch.tensor(x)).detach(), rtol=1e-5, atol=1e-6)
