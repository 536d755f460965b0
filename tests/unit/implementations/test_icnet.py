"""ICNet on both sides: sizes, variants, labels, loss."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_impl.losses
import jax_impl.state
import torch_impl.losses
import torch_impl.state
from parity.spec import draw, icnet_labels
from parity.spec.models import MODELS, config_of
from parity.spec.networks.icnet import ICNetConfig
from parity.spec.tensors import STATISTICS, tensors
from tests.golden_vectors import Golden
from weights_convert import to_jax

CONFIG = ICNetConfig(num_classes=4, blocks=(1, 1, 1, 1), width=2, classifier=3)


def both(config: ICNetConfig) -> tuple[torch.nn.Module, nnx.Module]:
    weights = draw.weights(config, 0)
    a = torch_impl.state.build(config, weights)
    b = jax_impl.state.build(config, to_jax(config, weights))
    b.eval()
    return a.eval(), b


@pytest.mark.parametrize("size", [(4, 4), (37, 51), (64, 90)])
def test_sizes(size: tuple[int, int]) -> None:
    """Catches a size rounded another way on some branch, down to the smallest."""
    a, b = both(CONFIG)
    x = np.random.default_rng(0).random((1, *size, 3), np.float32)
    graph, state = nnx.split(b)
    found = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, jnp.asarray(x))
    expected = a(torch.tensor(x).permute(0, 3, 1, 2))
    for f, e, hw in zip(found, expected, CONFIG.output_sizes(*size), strict=True):
        e = e.detach().permute(0, 2, 3, 1).numpy()
        assert f.shape == e.shape == (1, *hw, 4)
        assert np.linalg.norm(f - e) <= 1e-5 * np.linalg.norm(e)


@pytest.mark.parametrize("size", [(3, 64), (64, 3), (1, 1)])
def test_too_small_is_refused(size: tuple[int, int]) -> None:
    """Catches a small image that fails deep inside."""
    a, b = both(CONFIG)
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}.*4x4"):
        a(torch.zeros(1, 3, *size))
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}.*4x4"):
        b(jnp.zeros((1, *size, 3)))


@pytest.mark.parametrize("classifier", [0, 3])
def test_tensors_are_those_of_the_network(classifier: int) -> None:
    """Catches a contract that the networks do not keep, and a classifier lost on conversion."""
    config = dataclasses.replace(CONFIG, blocks=(2, 1, 3, 1), classifier=classifier)
    expected = {key: spec.shape for key, spec in tensors(config).items()}
    assert ("pretrained.fc.weight" in expected) == bool(classifier)
    a, b = both(config)
    assert {k: tuple(v.shape) for k, v in a.state_dict().items()} == expected
    assert list(a.state_dict()) == list(expected)
    assert config_of("icnet", expected) == config
    arrays = jax_impl.state.state(b)
    for key, array in to_jax(config, torch_impl.state.state(a)).items():
        np.testing.assert_array_equal(arrays.pop(key), array)
    assert not arrays


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (MODELS["icnet"], 28_298_376),
        (ICNetConfig(classifier=0), 26_249_376),
        (MODELS["icnet-resnet101"], 47_290_504),
    ],
)
def test_parameters_are_counted(config: ICNetConfig, parameters: int) -> None:
    """Catches a network of another size than the published one."""
    sizes = [np.prod(t.shape) for t in tensors(config).values() if t.kind not in STATISTICS]
    assert sum(int(n) for n in sizes) == parameters


@pytest.mark.parametrize("n", [4, 8, 16])
def test_labels_are_those_of_the_reference(golden: object, n: int) -> None:
    """Catches labels resized in another precision or with other corners."""
    case = Golden(golden / "icnet_c19.npz")
    expected = case[f"target_sub{n}"]
    found = icnet_labels.published(case.labels(), expected.shape[1:])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [(60, 60), (72, 64), (57, 71), (50, 1), (240, 120)])
def test_labels_are_truncated_as_by_pytorch(size: tuple[int, int]) -> None:
    """Catches a sum in another order: one unit below a class is the class before."""
    labels = np.random.default_rng(0).integers(-1, 19, (2, 60, 60)).repeat(4, 1).repeat(4, 2)
    image = torch.tensor(labels, dtype=torch.float32)[:, None]
    resized = torch.nn.functional.interpolate(image, size, mode="bilinear", align_corners=True)
    np.testing.assert_array_equal(icnet_labels.published(labels, size), resized[:, 0].long())


def test_nearest_labels_make_up_nothing() -> None:
    """Catches a class that is not there, and a corner that moves."""
    labels = np.array([[[-1, 7, 7, 2], [7, 7, 2, 2], [3, 3, 2, 18]]])
    np.testing.assert_array_equal(icnet_labels.nearest(labels, (2, 2)), [[[-1, 2], [3, 18]]])
    np.testing.assert_array_equal(icnet_labels.nearest(labels, (3, 4)), labels)
    assert set(np.unique(icnet_labels.published(labels, (3, 3)))) - set(np.unique(labels))
    np.testing.assert_array_equal(icnet_labels.nearest(labels, (1, 1)), [[[-1]]])


def test_loss() -> None:
    """Catches other weights, a void that counts, and a first output that does."""
    rng = np.random.default_rng(0)
    sizes = [(8, 8), (4, 4), (2, 3), (1, 2)]
    outputs = [rng.normal(size=(1, *s, 3)).astype(np.float32) for s in sizes]
    labels = [rng.integers(-1, 3, (1, *s)) for s in sizes[1:]]
    assert all((a == -1).any() for a in labels[:1])
    parts = []
    for x, y in zip(outputs[1:], labels, strict=True):
        p = np.exp(x.astype(np.float64))
        p /= p.sum(-1, keepdims=True)
        parts.append(
            -np.log(np.take_along_axis(p, y[..., None].clip(0), -1)[..., 0])[y >= 0].mean()
        )
    expected = parts[0] + 0.4 * parts[1] + 0.4 * parts[2]
    a = torch_impl.losses.icnet_loss(
        [torch.tensor(o.transpose(0, 3, 1, 2).copy()) for o in outputs],
        *map(torch.tensor, labels),
    )
    b = jax_impl.losses.icnet_loss([jnp.asarray(o) for o in outputs], *map(jnp.asarray, labels))
    np.testing.assert_allclose([float(a), float(b)], expected, rtol=1e-6)


def test_config_refuses_nonsense() -> None:
    """Catches a network of no class, of three stages, or of half a channel."""
    with pytest.raises(ValueError, match="num_classes"):
        ICNetConfig(num_classes=0)
    with pytest.raises(ValueError, match="blocks"):
        ICNetConfig(blocks=(3, 4, 6))
    with pytest.raises(ValueError, match="width"):
        ICNetConfig(width=7)
    with pytest.raises(ValueError, match="classifier"):
        ICNetConfig(classifier=-1)
