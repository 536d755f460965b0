"""ERFNet on both sides: sizes, variants, modes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_impl.state
import torch_impl.state
from jax_impl.models.erfnet import ERFNet
from parity.spec import draw
from parity.spec.models import MODELS, config_of
from parity.spec.networks.erfnet import Block, ERFNetConfig
from parity.spec.tensors import STATISTICS, tensors
from tests.golden_vectors import Golden
from weights_convert import to_jax

# One block of each kind on each of its scales.
CONFIG = ERFNetConfig(
    num_classes=4,
    encoder=(
        Block("down", 3, 8),
        Block("down", 8, 16),
        Block("nb1d", 16, 16),
        Block("down", 16, 72),
        Block("nb1d", 72, 72, dilation=4),
    ),
    decoder=(Block("up", 72, 16), Block("nb1d", 16, 16), Block("up", 16, 8)),
)


def both(config: ERFNetConfig) -> tuple[torch.nn.Module, nnx.Module]:
    weights = draw.weights(config, 0)
    a = torch_impl.state.build(config, weights)
    b = jax_impl.state.build(config, to_jax(config, weights))
    b.eval()
    return a.eval(), b


def outputs(config: ERFNetConfig, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """What both sides answer to one image, (N, H, W, C)."""
    a, b = both(config)
    x = np.random.default_rng(0).random((1, *size, 3), np.float32)
    expected = a(torch.tensor(x).permute(0, 3, 1, 2)).detach().permute(0, 2, 3, 1).numpy()
    graph, state = nnx.split(b)
    found = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, jnp.asarray(x))
    return expected, np.asarray(found)


VARIANTS = {name: config for name, config in MODELS.items() if config.family == "erfnet"}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(8, 8), (24, 40)])
def test_sizes(size: tuple[int, int], variant: str) -> None:
    """Catches a map smaller than a dilation, or an odd one, of which a row or column is lost."""
    model = VARIANTS[variant]
    config = dataclasses.replace(
        model, num_classes=4, encoder=CONFIG.encoder, decoder=CONFIG.decoder
    )
    expected, found = outputs(config, size)
    scale = 8 if model.encoder_only else 1
    assert found.shape == (1, size[0] // scale, size[1] // scale, 4)
    assert config.output_size(*size) == found.shape[1:3]
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("size", [(12, 64), (64, 7), (0, 8), (508, 1024)])
def test_other_sizes_are_refused(size: tuple[int, int]) -> None:
    """Catches an image that fails deep inside, or on one side only."""
    a, b = both(CONFIG)
    message = f"{size[0]}x{size[1]}.*multiples of 8"
    with pytest.raises(ValueError, match=message):
        a(torch.zeros(1, 3, *size))
    with pytest.raises(ValueError, match=message):
        b(jnp.zeros((1, *size, 3)))


def test_refused_is_what_the_reference_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a check that refuses a size PyTorch can process, or lets one pass that it cannot."""
    a, _ = both(CONFIG)
    monkeypatch.setattr(ERFNetConfig, "check_input", lambda *_: None)
    possible = []
    for n in range(1, 34):
        try:
            a(torch.zeros(1, 3, n, 16))
        except RuntimeError:
            continue
        possible.append(n)
    assert possible == [8, 16, 24, 32]


@pytest.mark.parametrize("encoder_only", [False, True])
def test_tensors_are_those_of_the_network(encoder_only: bool) -> None:
    """Catches a contract of names and shapes that the networks do not keep."""
    config = ERFNetConfig(num_classes=7, encoder_only=encoder_only)
    expected = {key: spec.shape for key, spec in tensors(config).items()}
    a, b = both(config)
    assert {k: tuple(v.shape) for k, v in a.state_dict().items()} == expected
    assert list(a.state_dict()) == list(expected)
    assert config_of("erfnet", expected) == ERFNetConfig(num_classes=7)
    arrays = jax_impl.state.state(b)
    for key, array in to_jax(config, torch_impl.state.state(a)).items():
        np.testing.assert_array_equal(arrays.pop(key), array)
    assert not arrays


def test_names_are_the_published_ones(golden: Path) -> None:
    """Catches a name or a place in the order that the published state dict does not have."""
    case = Golden(golden / "erfnet_c20.npz")
    found = tensors(MODELS["erfnet"])
    assert list(found) == case.names("state_names")
    assert ["x".join(map(str, t.shape)) for t in found.values()] == case.names("state_shapes")


def test_parameters_are_counted() -> None:
    """Catches a network of another size than the published one."""
    sizes = {
        key: int(np.prod(t.shape))
        for key, t in tensors(MODELS["erfnet"]).items()
        if t.kind not in STATISTICS
    }
    assert sum(sizes.values()) == 2_066_836
    parts = ("encoder.output_conv", "decoder")
    assert [sum(n for k, n in sizes.items() if k.startswith(p)) for p in parts] == [2_580, 190_212]


def test_the_encoder_needs_no_decoder() -> None:
    """Catches an encoder's prediction that reads the decoder, or a whole one its classifier."""
    x = torch.rand(1, 3, 16, 24)
    for encoder_only, idle in ((True, "decoder"), (False, "encoder.output_conv")):
        a, _ = both(dataclasses.replace(CONFIG, encoder_only=encoder_only))
        before = a(x)
        for parameter in a.get_submodule(idle).parameters():
            parameter.data.fill_(torch.nan)
        assert torch.equal(a(x), before)


@pytest.mark.parametrize("side", ["torch", "jax"])
def test_mindspore_shifts_by_one_pixel(side: str) -> None:
    """Catches a 'same' padding that shifts the other way, or not at all."""
    maps = []
    for same in (False, True):
        pair = both(dataclasses.replace(CONFIG, same_padding=same))
        network = pair[side == "jax"]
        up = network.decoder.layers[0] if side == "torch" else next(iter(network.decoder.layers))
        x = np.random.default_rng(1).random((1, 4, 5, 72), np.float32)
        if side == "torch":
            y = up(torch.tensor(x).permute(0, 3, 1, 2)).detach().permute(0, 2, 3, 1).numpy()
        else:
            y = np.asarray(up(jnp.asarray(x)))
        maps.append(y)
    plain, shifted = maps
    assert plain.shape == shifted.shape == (1, 8, 10, 16)
    np.testing.assert_allclose(shifted[:, 1:, 1:], plain[:, :-1, :-1], rtol=1e-5, atol=1e-5)
    assert abs(shifted[:, :-1, :-1] - plain[:, :-1, :-1]).max() > 0.1


def test_train_mode_needs_masks() -> None:
    """Catches training that goes on without dropout, and a mask of channels taken for elements."""
    size, sites = (16, 16), {"encoder.layers.1": (0.03, (16,)), "encoder.layers.3": (0.3, (72,))}
    assert CONFIG.dropout_sites(*size) == sites
    elements = dataclasses.replace(CONFIG, channel_dropout=False)
    shapes = [shape for _, shape in elements.dropout_sites(*size).values()]
    assert shapes == [(4, 4, 16), (2, 2, 72)]
    a = torch_impl.state.build(CONFIG, draw.weights(CONFIG, 0))
    x = torch.zeros(2, 3, *size)
    with pytest.raises(ValueError, match=r"mask \(2, 16\)"):
        a(x)
    masks = draw.dropout_masks(CONFIG, size, 0, 0, 0, range(2))
    assert a(x, {k: torch.tensor(v) for k, v in masks.items()}).shape == (2, 4, *size)
    b = torch_impl.state.build(elements, draw.weights(elements, 0))
    with pytest.raises(ValueError, match=r"mask \(2, 16, 4, 4\), got \(2, 16\)"):
        b(x, {k: torch.tensor(v) for k, v in masks.items()})


def test_a_new_network() -> None:
    """Catches a JAX network that cannot be made from scratch, as NNX users make one."""
    model = ERFNet(CONFIG, rngs=nnx.Rngs(0))
    model.eval()
    assert model(jnp.zeros((1, 8, 8, 3))).shape == (1, 8, 8, 4)


def test_config_refuses_nonsense() -> None:
    """Catches a probability of 1, at which dropout divides by 0, and a network of no class."""
    with pytest.raises(ValueError, match="dropout"):
        ERFNetConfig(dropout=(0.1, 1.0))
    with pytest.raises(ValueError, match="num_classes"):
        ERFNetConfig(num_classes=0)
