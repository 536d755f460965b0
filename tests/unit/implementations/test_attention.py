"""The layers of Transformers on both sides, against PyTorch's own and other formulations."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn
from torch.nn import functional

import jax_impl.layers
import torch_impl.layers

RNGS = nnx.Rngs(0)
N, T, S, HEADS, KV, D = 2, 5, 7, 6, 2, 8
SAME = 1e-12  # of numbers around 1, in float64


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def by_both(torch_layer: nn.Module, jax_layer: nnx.Module, *arrays: np.ndarray) -> list[np.ndarray]:
    """The outputs and input gradients of both sides' layers, in float64: torch's first."""
    inputs = [torch.tensor(a).requires_grad_() for a in arrays]
    y = torch_layer.double()(*inputs)
    upstream = drawn(*y.shape, seed=9)
    y.backward(torch.tensor(upstream))
    theirs = [y.detach().numpy(), *(x.grad.numpy() for x in inputs if x.grad is not None)]
    with jax.enable_x64(True):
        graph, state = nnx.split(jax_layer)
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), state)

        def run(*inputs: jax.Array) -> jax.Array:
            return nnx.merge(graph, wide)(*inputs)

        out, pull = jax.vjp(run, *map(jnp.asarray, arrays))
        ours = [np.asarray(out), *map(np.asarray, pull(jnp.asarray(upstream)))]
    for a, b in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=SAME)
    return theirs


def heads(x: np.ndarray, count: int) -> torch.Tensor:
    """(N, T, count * d) to (N, count, T, d)."""
    return torch.tensor(x).reshape(*x.shape[:2], count, -1).transpose(1, 2)


@pytest.mark.parametrize("kv", [HEADS, KV, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_attention(kv: int, causal: bool) -> None:
    """Catches a scale, mask, sharing or order of heads that is not PyTorch's own attention's."""
    q, k, v = drawn(N, T, HEADS * D), drawn(N, S, kv * D, seed=1), drawn(N, S, kv * D, seed=2)
    found, *_ = by_both(
        torch_impl.layers.Attention(HEADS, kv, causal),
        jax_impl.layers.Attention(HEADS, kv, causal, rngs=RNGS),
        *(q, k, v),
    )
    mask = torch.ones(T, S, dtype=torch.bool).tril(S - T) if causal else None
    shared = [heads(x, kv).repeat_interleave(HEADS // kv, 1) for x in (k, v)]
    expected = functional.scaled_dot_product_attention(heads(q, HEADS), *shared, attn_mask=mask)
    np.testing.assert_allclose(
        found, expected.transpose(1, 2).reshape(N, T, -1).numpy(), rtol=0, atol=SAME
    )


def test_grouped_queries_are_pytorchs() -> None:
    """Catches key heads shared in turn (tiled) where successive queries share one."""
    q, k, v = drawn(N, T, HEADS * D), drawn(N, T, KV * D, seed=1), drawn(N, T, KV * D, seed=2)
    found = torch_impl.layers.Attention(HEADS, KV, True)(*map(torch.tensor, (q, k, v)))
    expected = functional.scaled_dot_product_attention(
        heads(q, HEADS), heads(k, KV), heads(v, KV), is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(found, expected.transpose(1, 2).flatten(2), rtol=0, atol=SAME)


@pytest.mark.parametrize(("base", "start"), [(1e4, 0), (5e5, 3)])
def test_rotary_is_a_complex_product(base: float, start: int) -> None:
    """Catches neighbours turned for halves, another base, place or direction."""
    x = drawn(N, T, HEADS * D)
    with jax.enable_x64(True):
        ours = jax_impl.layers.Rotary(D, base, rngs=RNGS)(jnp.asarray(x), start)
    theirs = torch_impl.layers.Rotary(D, base)(torch.tensor(x), start)
    halves = x.reshape(N, T, HEADS, 2, D // 2)
    turned = halves[..., 0, :] + 1j * halves[..., 1, :]
    places = np.arange(start, start + T)[:, None, None]
    turned = turned * np.exp(1j * places / base ** (2 * np.arange(D // 2) / D))
    expected = np.stack((turned.real, turned.imag), axis=-2).reshape(x.shape)
    for found in (ours, theirs.numpy()):
        np.testing.assert_allclose(found, expected, rtol=0, atol=SAME)


def test_rotary_shows_distances_only() -> None:
    """Catches an embedding whose products of queries and keys depend on where they stand."""
    q, k = drawn(1, 1, D), drawn(1, 1, D, seed=1)
    layer = torch_impl.layers.Rotary(D)
    products = [
        float((layer(torch.tensor(q), at + 4) * layer(torch.tensor(k), at)).sum()) for at in (0, 90)
    ]
    assert abs(products[0] - products[1]) < SAME


def filled(layer: nnx.Module, **arrays: np.ndarray) -> nnx.Module:
    with jax.enable_x64(True):
        for name, array in arrays.items():
            getattr(layer, name).set_value(jnp.asarray(array))
    return layer


def test_norms() -> None:
    """Catches a norm with another mean, divisor, place of its eps, or gradient."""
    x, scale, bias = drawn(N, T, D) * 0.01 + 0.003, drawn(D, seed=1), drawn(D, seed=2)
    layer = torch_impl.layers.LayerNorm(D, 1e-3)
    layer.load_state_dict({"weight": torch.tensor(scale), "bias": torch.tensor(bias)}, assign=True)
    own = jax_impl.layers.LayerNorm(D, 1e-3, rngs=RNGS)
    found, _ = by_both(layer, filled(own, scale=scale, bias=bias), x)
    centred = x - x.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-3) * scale + bias
    np.testing.assert_allclose(found, expected, rtol=0, atol=SAME)

    rms = nn.RMSNorm(D, 1e-3)
    rms.load_state_dict({"weight": torch.tensor(scale)}, assign=True)
    found, _ = by_both(rms, filled(jax_impl.layers.RMSNorm(D, 1e-3, rngs=RNGS), scale=scale), x)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * scale
    np.testing.assert_allclose(found, expected, rtol=0, atol=SAME)


@pytest.mark.parametrize("name", ["GELU", "SiLU"])
def test_activations(name: str) -> None:
    """Catches a GELU by a tanh, or a SiLU for it."""
    x = drawn(N, T, D) * 2
    theirs, ours = getattr(torch_impl.layers, name)(), getattr(jax_impl.layers, name)(rngs=RNGS)
    found, _ = by_both(theirs, ours, x)
    made: dict[str, Callable] = {
        "GELU": lambda x: x * torch.special.ndtr(x),
        "SiLU": lambda x: x / (1 + torch.exp(-x)),
    }
    np.testing.assert_allclose(found, made[name](torch.tensor(x)).numpy(), rtol=0, atol=SAME)


def test_embedding() -> None:
    """Catches rows of other tokens, and gradients that do not add up where a token recurs."""
    table, ids = drawn(4, D), np.array([[3, 0, 3], [1, 3, 1]])
    layer = torch_impl.layers.Embedding(4, D).double()
    layer.load_state_dict({"weight": torch.tensor(table)})
    layer(torch.tensor(ids)).sum().backward()
    own = filled(jax_impl.layers.Embedding(4, D, rngs=RNGS), embedding=table)
    with jax.enable_x64(True):
        gradient = nnx.grad(lambda layer: layer(jnp.asarray(ids)).sum())(own)
        found = own(jnp.asarray(ids))
    np.testing.assert_array_equal(found, table[ids])
    np.testing.assert_array_equal(gradient["embedding"][...], layer.weight.grad.numpy())


@pytest.mark.parametrize("kind", ["LayerNorm", "RMSNorm", "Attention"])
def test_half_precision_sums_in_float32(kind: str) -> None:
    """Catches a mean or a softmax that is summed in bfloat16, in which 256 and 1 are 256."""
    x = np.ones((1, 512, 512), np.float32)
    x[..., ::2] = -1
    x[..., 0] = 40
    with jax.enable_x64(False):
        given = jnp.asarray(x, jnp.bfloat16)
        if kind == "Attention":
            layer = jax_impl.layers.Attention(1, rngs=RNGS)
            found = layer(given * 0, given * 0, given)
            expected = x.mean(1, keepdims=True) + 0 * x
        else:
            found = getattr(jax_impl.layers, kind)(512, rngs=RNGS)(given)
            expected = getattr(nn, kind)(512)(torch.tensor(x)).detach().numpy()
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=2**-7, atol=2**-9)
