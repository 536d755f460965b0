"""JAX layers against PyTorch's, where the two frameworks differ by themselves."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_impl.layers
import torch_impl.layers
from jax_impl.layers.convolution import pair
from jax_impl.losses import cross_entropy as jax_cross_entropy
from jax_impl.ops.convolution import convolution
from torch_impl.losses import cross_entropy as torch_cross_entropy

RNGS = nnx.Rngs(0)


def images(*shape: int, ties: bool = False) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, shape) if ties else rng.normal(size=shape)
    return x.astype(np.float32)


def to_torch(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(x.transpose(0, 3, 1, 2).copy())


def to_numpy(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize(("kernel", "padding"), [(2, 0), (3, 1)])
@pytest.mark.parametrize("size", [(6, 8), (5, 7), (9, 6)])
def test_max_pool(kernel: int, padding: int, size: tuple[int, int]) -> None:
    """Catches ties that do not go to the first, in value, index or gradient, and odd sizes."""
    x = images(2, *size, 3, ties=True)
    indices = padding == 0
    a = torch_impl.layers.MaxPool2d(kernel, 2, padding, return_indices=indices)
    b = jax_impl.layers.MaxPool2d(kernel, 2, padding, return_indices=indices, rngs=RNGS)
    t = to_torch(x).requires_grad_()
    found, expected = b(jnp.asarray(x)), a(t)
    if indices:
        np.testing.assert_array_equal(found[1], to_numpy(expected[1]))
        found, expected = found[0], expected[0]
    np.testing.assert_array_equal(found, to_numpy(expected))
    upstream = images(*found.shape)
    expected.backward(to_torch(upstream))

    def value(x: jax.Array) -> jax.Array:
        y = b(x)
        return ((y[0] if indices else y) * upstream).sum()

    np.testing.assert_allclose(jax.grad(value)(jnp.asarray(x)), to_numpy(t.grad), rtol=1e-6)


def test_max_pool_keeps_nan() -> None:
    """Catches a NaN that a comparison loses."""
    x = images(1, 4, 4, 1)
    x[0, 1, 1, 0] = np.nan
    pooled, at = jax_impl.layers.MaxPool2d(2, 2, return_indices=True, rngs=RNGS)(jnp.asarray(x))
    assert np.isnan(pooled[0, 0, 0, 0])
    assert at[0, 0, 0, 0] == 5


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_max_unpool(size: tuple[int, int]) -> None:
    """Catches values put back in the wrong place, a lost rim, and a wrong gradient."""
    x = images(2, *size, 3)
    pool = torch_impl.layers.MaxPool2d(2, 2, return_indices=True)
    pooled, indices = pool(to_torch(x))
    pooled = pooled.requires_grad_()
    expected = torch_impl.layers.MaxUnpool2d(2, 2)(pooled, indices, size)
    unpool = jax_impl.layers.MaxUnpool2d(2, 2, rngs=RNGS)
    at = jnp.asarray(to_numpy(indices).astype(np.int32))
    values = jnp.asarray(to_numpy(pooled))
    np.testing.assert_array_equal(unpool(values, at, size), to_numpy(expected))
    upstream = images(2, *size, 3)
    expected.backward(to_torch(upstream))
    gradient = jax.grad(lambda v: (unpool(v, at, size) * upstream).sum())(values)
    np.testing.assert_allclose(gradient, to_numpy(pooled.grad), rtol=1e-6)


GEOMETRIES = [(2, 2, 0), (3, 2, 1), (4, 2, 1), (3, 1, 1), (5, 3, 2), (3, 3, 0)]


@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
@pytest.mark.parametrize("bias", [False, True])
def test_conv_transpose(kernel: int, stride: int, padding: int, bias: bool) -> None:
    """Catches a kernel not flipped, a shifted phase, and output padding on the wrong side."""
    x = images(2, 4, 5, 3)
    a = torch_impl.layers.ConvTranspose2d(3, 4, kernel, stride, padding, bias=bias)
    b = jax_impl.layers.ConvTranspose2d(3, 4, kernel, stride, padding, bias=bias, rngs=RNGS)
    b.kernel.set_value(jnp.asarray(a.weight.detach().numpy().transpose(2, 3, 1, 0)))
    if bias:
        b.bias.set_value(jnp.asarray(a.bias.detach().numpy()))
    smallest = a(to_torch(x)).shape[2:]
    for more in itertools.product(range(stride), repeat=2):
        size = (smallest[0] + more[0], smallest[1] + more[1])
        expected = to_numpy(a(to_torch(x), size))
        np.testing.assert_allclose(b(jnp.asarray(x), size), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="output_size"):
        b(jnp.asarray(x), (smallest[0] + stride, smallest[1]))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(3, 2, 1, 1), ((5, 1), 1, (2, 0), 1), (1, 1, 0, 1), (1, 2, 0, 1), (3, 1, 4, 4), (2, 2, 0, 1)],
)
def test_conv(kernel: int, stride: int, padding: int, dilation: int, groups: int) -> None:
    """Catches SAME padding at stride 2, swapped axes of a kernel, and a lost bias."""
    x = images(2, 9, 10, 4)
    a = torch_impl.layers.Conv2d(4, 6, kernel, stride, padding, dilation, groups)
    b = jax_impl.layers.Conv2d(4, 6, kernel, stride, padding, dilation, groups, rngs=RNGS)
    b.kernel.set_value(jnp.asarray(a.weight.detach().numpy().transpose(2, 3, 1, 0)))
    b.bias.set_value(jnp.asarray(a.bias.detach().numpy()))
    expected = to_numpy(a(to_torch(x)))
    np.testing.assert_allclose(b(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kernel", "padding", "dilation"),
    [((3, 1), (1, 0), 1), ((1, 3), (0, 16), (1, 16)), ((3, 1), (2, 1), (4, 1)), ((1, 3), 0, 2)],
)
def test_gradients_of_conv(kernel: tuple, padding: int | tuple, dilation: int | tuple) -> None:
    """Catches a 3x1 or 1x3 kernel shifted, or beyond the map, in value and both gradients."""
    x = images(2, 7, 10, 6)
    a = torch_impl.layers.Conv2d(6, 5, kernel, 1, padding, dilation)
    b = jax_impl.layers.Conv2d(6, 5, kernel, 1, padding, dilation, rngs=RNGS)
    b.kernel.set_value(jnp.asarray(a.weight.detach().numpy().transpose(2, 3, 1, 0)))
    b.bias.set_value(jnp.asarray(a.bias.detach().numpy()))
    t = to_torch(x).requires_grad_()
    expected = a(t)
    np.testing.assert_allclose(b(jnp.asarray(x)), to_numpy(expected), rtol=1e-5, atol=1e-6)
    upstream = images(*to_numpy(expected).shape)
    expected.backward(to_torch(upstream))

    def value(x: jax.Array, kernel: jax.Array) -> jax.Array:
        y = convolution(x, kernel, (1, 1), pair(padding), pair(dilation))
        return (y * upstream).sum()

    dx, dk = jax.grad(value, argnums=(0, 1))(jnp.asarray(x), b.kernel[...])
    np.testing.assert_allclose(dx, to_numpy(t.grad), rtol=1e-5, atol=1e-5)
    expected_dk = a.weight.grad.numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(dk, expected_dk, rtol=1e-4, atol=1e-4)


def test_initial_weights_are_pytorchs() -> None:
    """Catches an initialisation with another bound than 1 / sqrt(fan_in)."""
    conv = jax_impl.layers.Conv2d(32, 64, 3, rngs=RNGS)
    bound = (32 * 9) ** -0.5
    assert 0.99 * bound < float(abs(conv.kernel[...]).max()) <= bound
    assert abs(float(conv.kernel[...].std()) - bound / 3**0.5) < 0.01 * bound


def test_dropout_needs_its_mask() -> None:
    """Catches a network that trains without dropout because nobody handed it masks."""
    x = images(2, 3, 3, 4)
    mask = np.array([[1, 0, 1, 1], [0, 1, 1, 0]], bool)
    a = torch_impl.layers.Dropout2d(0.25)
    b = jax_impl.layers.Dropout2d(0.25, rngs=RNGS)
    with pytest.raises(ValueError, match="mask"):
        a(to_torch(x), None)
    with pytest.raises(ValueError, match="mask"):
        b(jnp.asarray(x), None)
    expected = x * mask[:, None, None, :] / 0.75
    np.testing.assert_allclose(to_numpy(a(to_torch(x), torch.tensor(mask))), expected, rtol=1e-6)
    np.testing.assert_allclose(b(jnp.asarray(x), jnp.asarray(mask)), expected, rtol=1e-6)


def test_batch_norm_refuses_one_value() -> None:
    """Catches statistics of a single value, which PyTorch refuses and division by 0 hides."""
    norm = jax_impl.layers.BatchNorm2d(3, rngs=RNGS)
    with pytest.raises(ValueError, match="two values"):
        norm(jnp.ones((1, 1, 1, 3)))


@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_leaves_pixels_out(weighted: bool) -> None:
    """Catches a mean over all pixels, or over their number in place of their weights."""
    logits, labels = images(2, 3, 4, 5), np.random.default_rng(1).integers(0, 5, (2, 3, 4))
    labels[0, 0] = -1
    weights = np.arange(1, 6, dtype=np.float32) if weighted else None
    found = jax_cross_entropy(jnp.asarray(logits), jnp.asarray(labels), weights, -1)
    t = None if weights is None else torch.tensor(weights)
    expected = torch_cross_entropy(to_torch(logits), torch.tensor(labels), t, -1)
    np.testing.assert_allclose(found, expected.item(), rtol=1e-6)


def test_unknown_label_is_not_a_class() -> None:
    """Catches a label beyond the classes, which JAX would clamp to the last one."""
    logits = jnp.asarray(images(1, 2, 2, 5))
    assert np.isnan(jax_cross_entropy(logits, jnp.full((1, 2, 2), 7)))
