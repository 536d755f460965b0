"""ENet on both sides: sizes, variants, modes."""

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
from jax_impl.models.enet import ENet
from parity.spec import draw
from parity.spec.errors import InputError
from parity.spec.models import MODELS, config_of
from parity.spec.networks.enet import ENET_BLOCKS, ENetConfig
from parity.spec.tensors import STATISTICS, tensors
from weights_convert import to_jax

# Both poolings and both unpoolings, and nothing else: odd sizes are their business.
SHORT = tuple(b for b in ENET_BLOCKS if b.kind in ("downsample", "upsample"))
CONFIG = ENetConfig(num_classes=4, blocks=SHORT)


def both(config: ENetConfig) -> tuple[torch.nn.Module, nnx.Module]:
    weights = draw.weights(config, 0)
    a = torch_impl.state.build(config, weights)
    b = jax_impl.state.build(config, to_jax(config, weights))
    b.eval()
    return a.eval(), b


@pytest.mark.parametrize("size", [(120, 200), (90, 122), (7, 7), (9, 31)])
def test_sizes_that_do_not_halve(size: tuple[int, int]) -> None:
    """Catches a row or column lost or misplaced where a size is odd on some stage."""
    a, b = both(CONFIG)
    x = np.random.default_rng(0).random((1, *size, 3), np.float32)
    expected = a(torch.tensor(x).permute(0, 3, 1, 2)).detach().permute(0, 2, 3, 1).numpy()
    graph, state = nnx.split(b)
    found = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, jnp.asarray(x))
    assert found.shape == (1, *size, 4)
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("size", [(6, 64), (64, 6), (1, 1)])
def test_too_small_is_refused(size: tuple[int, int]) -> None:
    """Catches a small image that fails deep inside, or worse does not."""
    a, b = both(CONFIG)
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}.*7x7"):
        a(torch.zeros(1, 3, *size))
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}.*7x7"):
        b(jnp.zeros((1, *size, 3)))


@pytest.mark.parametrize("encoder", [False, True])
@pytest.mark.parametrize("decoder", [False, True])
def test_tensors_are_those_of_the_network(encoder: bool, decoder: bool) -> None:
    """Catches a contract of names and shapes that the networks do not keep."""
    config = ENetConfig(num_classes=7, encoder_relu=encoder, decoder_relu=decoder)
    expected = {key: spec.shape for key, spec in tensors(config).items()}
    a, b = both(config)
    assert {k: tuple(v.shape) for k, v in a.state_dict().items()} == expected
    assert list(a.state_dict()) == list(expected)
    assert config_of("enet", expected) == config
    arrays = jax_impl.state.state(b)
    for key, array in to_jax(config, torch_impl.state.state(a)).items():
        np.testing.assert_array_equal(arrays.pop(key), array)
    assert not arrays


@pytest.mark.parametrize(("model", "parameters"), [("enet", 351_804), ("enet-camvid", 350_652)])
def test_parameters_are_counted(model: str, parameters: int) -> None:
    """Catches a network of another size than the published one."""
    sizes = [np.prod(t.shape) for t in tensors(MODELS[model]).values() if t.kind not in STATISTICS]
    assert sum(int(n) for n in sizes) == parameters


def test_the_encoder_alone() -> None:
    """Catches logits of another size than 1/8, and an encoder that is not the whole network's."""
    config = dataclasses.replace(MODELS["enet-mindspore-encoder"], num_classes=7)
    own, whole = tensors(config), tensors(MODELS["enet-mindspore"])
    assert own.keys() - whole.keys() == {"output_conv.weight", "output_conv.bias"}
    decoder = ("upsample", "regular4", "regular5", "transposed_conv")
    assert whole.keys() - own.keys() == {k for k in whole if k.startswith(decoder)}
    shown = config_of("enet", {k: t.shape for k, t in own.items()})
    assert (shown.encoder_only, shown.num_classes) == (True, 7)
    a, b = both(config)
    assert config.output_size(48, 64) == (6, 8)
    x = torch.zeros(1, 3, 48, 64)
    assert a(x).shape == (1, 7, 6, 8)
    assert nnx.eval_shape(lambda x: b(x), jnp.zeros((1, 48, 64, 3))).shape == (1, 6, 8, 7)


@pytest.mark.parametrize("size", [(17, 31), (16, 24), (23, 9)])
def test_size_of_the_encoders_output(size: tuple[int, int]) -> None:
    """Catches labels of another size than the logits, where a side does not halve."""
    config = dataclasses.replace(CONFIG, encoder_only=True)
    model = torch_impl.state.build(config, draw.weights(config, 0)).eval()
    assert model(torch.zeros(1, 3, *size)).shape[2:] == config.output_size(*size)
    assert CONFIG.output_size(*size) == size


def test_build_refuses_other_weights() -> None:
    """Catches a leaf that nobody filled passing as initialised."""
    weights = draw.weights(CONFIG, 0)
    weights.pop("transposed_conv.weight")
    weights["extra"] = np.zeros(3, np.float32)
    with pytest.raises(InputError, match=r"transposed_conv.weight is missing.*extra is not"):
        torch_impl.state.build(CONFIG, weights)
    jax_weights = {k: v for k, v in to_jax(CONFIG, draw.weights(CONFIG, 0)).items() if "conv" in k}
    with pytest.raises(InputError, match="is missing"):
        jax_impl.state.build(CONFIG, jax_weights)


def test_float64_is_not_quietly_float32() -> None:
    """Catches an oracle that is not one, because JAX holds no float64 unless told to."""
    with pytest.raises(ValueError, match="jax_enable_x64"):
        jax_impl.state.build(CONFIG, to_jax(CONFIG, draw.weights(CONFIG, 0)), "float64")


def test_train_mode_needs_masks() -> None:
    """Catches training that goes on without dropout."""
    a = torch_impl.state.build(CONFIG, draw.weights(CONFIG, 0))
    with pytest.raises(ValueError, match="mask"):
        a(torch.zeros(2, 3, 16, 16))


def test_a_new_network() -> None:
    """Catches a JAX network that cannot be made from scratch, as NNX users make one."""
    model = ENet(CONFIG, rngs=nnx.Rngs(0))
    model.eval()
    assert model(jnp.zeros((1, 8, 8, 3))).shape == (1, 8, 8, 4)


def test_config_refuses_nonsense() -> None:
    """Catches a probability of 1, at which dropout divides by 0, and a network of no class."""
    with pytest.raises(ValueError, match="dropout"):
        ENetConfig(dropout=(0.1, 1.0))
    with pytest.raises(ValueError, match="num_classes"):
        ENetConfig(num_classes=0)
