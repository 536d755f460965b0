"""GENet on both sides: variants, sizes, and the layers it brought along."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_impl.state
import torch_impl.state
from jax_impl import layers as ours
from parity.spec import draw
from parity.spec.models import MODELS, config_of
from parity.spec.networks.genet import GENetConfig
from parity.spec.tensors import STATISTICS, tensors
from torch_impl import layers as theirs
from weights_convert import to_jax

TINY = GENetConfig(num_classes=3, depth=10, width=1)

VARIANTS = [
    dataclasses.replace(TINY, extent=extent, extra_params=params, mlp=mlp)
    for extent, params, mlp in (
        (0, False, True),
        (0, True, False),
        (2, True, True),
        (8, True, False),
    )
]


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("genet", 10_961_370),
        ("genet-theta", 11_423_706),
        ("genet-theta-plus", 11_509_722),
        ("genet-extent2", 10_981_082),
        ("genet-extent4", 11_000_794),
        ("genet-extent8", 11_020_506),
    ],
)
def test_parameters_are_counted(model: str, parameters: int) -> None:
    """Catches a network of another size than the published one."""
    sizes = [np.prod(t.shape) for t in tensors(MODELS[model]).values() if t.kind not in STATISTICS]
    assert sum(int(n) for n in sizes) == parameters


@pytest.mark.parametrize("config", VARIANTS)
def test_tensors_are_those_of_the_network(config: GENetConfig) -> None:
    """Catches a contract of names and shapes that the networks do not keep."""
    weights = draw.weights(config, 0)
    a = torch_impl.state.build(config, weights)
    b = jax_impl.state.build(config, to_jax(config, weights))
    expected = {key: spec.shape for key, spec in tensors(config).items()}
    assert {k: tuple(v.shape) for k, v in a.state_dict().items()} == expected
    assert list(a.state_dict()) == list(expected)
    assert config_of("genet", expected) == config
    arrays = jax_impl.state.state(b)
    for key, array in to_jax(config, torch_impl.state.state(a)).items():
        np.testing.assert_array_equal(arrays.pop(key), array)
    assert not arrays


@pytest.mark.parametrize("size", [(32, 32), (29, 44)])
def test_sizes(size: tuple[int, int]) -> None:
    """Catches a size at which pooling or upsampling takes other pixels than PyTorch's."""
    config = dataclasses.replace(TINY, extent=4)
    weights = draw.weights(config, 0)
    a = torch_impl.state.build(config, weights).eval()
    b = jax_impl.state.build(config, to_jax(config, weights))
    b.eval()
    x = np.random.default_rng(0).random((2, *size, 3), np.float32)
    expected = a(torch.tensor(x).permute(0, 3, 1, 2)).detach().numpy()
    graph, state = nnx.split(b)
    found = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, jnp.asarray(x))
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("config", "size"),
    [(TINY, (28, 32)), (TINY, (32, 61)), (dataclasses.replace(TINY, extra_params=True), (31, 40))],
)
def test_other_sizes_are_refused(config: GENetConfig, size: tuple[int, int]) -> None:
    """Catches an image that fails deep inside, or is classified by a part of it."""
    model = torch_impl.state.build(config, draw.weights(config, 0))
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}, but genet needs"):
        model(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    "wrong", [{"depth": 15}, {"width": 0}, {"extent": 3}, {"num_classes": 0}], ids=str
)
def test_config_refuses_nonsense(wrong: dict[str, int]) -> None:
    """Catches a table that cannot be built."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dataclasses.replace(TINY, **wrong)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [
        (3, 2, 1, (8, 8)),
        (3, 2, 1, (7, 10)),
        (6, 1, 0, (6, 6)),
        (6, 1, 0, (7, 9)),
        (3, 1, 1, (5, 4)),
    ],
)
def test_depthwise(kernel: int, stride: int, padding: int, size: tuple[int, int]) -> None:
    """Catches a formulation of the depthwise convolution that is another function or gradient."""
    a = theirs.Conv2d(4, 4, kernel, stride, padding, groups=4, bias=False)
    b = ours.Conv2d(4, 4, kernel, stride, padding, groups=4, bias=False, rngs=nnx.Rngs(0))
    weight = a.weight.detach().numpy().transpose(2, 3, 1, 0)
    x = np.random.default_rng(0).standard_normal((2, *size, 4)).astype(np.float32)
    t = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
    y = a(t)
    y.square().sum().backward()

    b.kernel.set_value(jnp.asarray(weight))

    def loss(b: nnx.Module, x: jax.Array) -> jax.Array:
        return jnp.square(b(x)).sum()

    value, (gradient, dx) = nnx.value_and_grad(loss, argnums=(0, 1))(b, jnp.asarray(x))
    d_kernel = gradient["kernel"][...]
    np.testing.assert_allclose(value, y.square().sum().item(), rtol=1e-5)
    np.testing.assert_allclose(d_kernel, a.weight.grad.numpy().transpose(2, 3, 1, 0), atol=1e-4)
    np.testing.assert_allclose(dx, t.grad.permute(0, 2, 3, 1).numpy(), atol=1e-4)


@pytest.mark.parametrize("size", [(6, 9), (7, 10)])
def test_nearest(size: tuple[int, int]) -> None:
    """Catches a pixel repeated too often or too seldom, where the ratio is no integer too."""
    x = np.arange(2 * 3 * 3 * 2, dtype=np.float32).reshape(2, 3, 3, 2)
    expected = theirs.Nearest()(torch.tensor(x).permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
    found = ours.Nearest(rngs=nnx.Rngs(0))(jnp.asarray(x), size)
    np.testing.assert_array_equal(found, expected.numpy())


def test_average_pooling_leaves_the_rest_out() -> None:
    """Catches a window that is padded or shifted where the size does not divide."""
    x = np.random.default_rng(0).random((1, 9, 11, 2), np.float32)
    expected = theirs.AvgPool2d(4)(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    found = ours.AvgPool2d(4, rngs=nnx.Rngs(0))(jnp.asarray(x))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)
