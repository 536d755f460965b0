"""The decoder on both sides: names, shapes, its cache, and what it must not see."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_impl.state
import torch_impl.state
from parity.spec import draw
from parity.spec.models import config_of
from parity.spec.networks.decoder import DecoderConfig
from parity.spec.recipes import RECIPES
from parity.spec.tensors import tensors
from weights_convert import to_jax

TINY = DecoderConfig(
    num_classes=11,
    width=20,
    depth=2,
    query_width=32,
    kv_width=16,
    head_dim=8,
    mlp_width=24,
    base=500_000.0,
)
TIED = dataclasses.replace(TINY, tied=True)
# Of Llama 3.2 1B, 1,235,814,400 parameters.
PUBLISHED = DecoderConfig(
    num_classes=128_256,
    width=2048,
    depth=16,
    query_width=2048,
    kv_width=512,
    head_dim=64,
    mlp_width=8192,
    tied=True,
    base=500_000.0,
)
IDS = np.random.default_rng(0).integers(0, 11, (3, 9))
SAME = 1e-12


@pytest.fixture(scope="module", params=["torch", "jax"])
def model(request: pytest.FixtureRequest) -> Any:
    """One side's network in float64: a function of ids and a cache, that returns arrays."""
    arrays = draw.weights(TINY, 0)
    if request.param == "torch":
        network = torch_impl.state.build(TINY, arrays, "float64").eval()
        with torch.inference_mode():
            yield lambda ids, *cache: network(torch.tensor(ids), *cache)
    else:
        with jax.enable_x64(True):
            port: Any = jax_impl.state.build(TINY, to_jax(TINY, arrays), "float64")
            port.eval()
            graph, state = nnx.split(port)
            run = jax.jit(lambda *inputs: nnx.merge(graph, state)(*inputs))
            yield lambda ids, *cache: run(jnp.asarray(ids), *cache)


def test_parameters_are_counted() -> None:
    """Catches a network of another size than the published one."""
    sizes = [np.prod(t.shape, dtype=np.int64) for t in tensors(PUBLISHED).values()]
    assert sum(int(n) for n in sizes) == 1_235_814_400
    assert (PUBLISHED.heads, PUBLISHED.kv_heads) == (32, 8)


@pytest.mark.parametrize("config", [TINY, TIED], ids=["own head", "tied head"])
def test_tensors_are_those_of_the_network(config: DecoderConfig) -> None:
    """Catches a contract of names and shapes that the networks do not keep."""
    weights = draw.weights(config, 0)
    a = torch_impl.state.build(config, weights)
    b = jax_impl.state.build(config, to_jax(config, weights))
    expected = {key: spec.shape for key, spec in tensors(config).items()}
    assert {k: tuple(v.shape) for k, v in a.state_dict().items()} == expected
    assert list(a.state_dict()) == list(expected)
    arrays = jax_impl.state.state(b)
    for key, array in to_jax(config, torch_impl.state.state(a)).items():
        np.testing.assert_array_equal(arrays.pop(key), array)
    assert not arrays
    shown = config_of("decoder", expected)  # the greatest common divisor is assumed of the heads
    assert dataclasses.replace(shown, head_dim=8, base=5e5) == config
    assert shown.head_dim == 16


def test_cache(model: Any) -> None:
    """Catches tokens that stand at another place, or see others, once there is a cache."""
    cache: Any = ()
    whole = model(IDS)
    for begin, end in ((0, 4), (4, 5), (5, 6), (6, 9)):  # a prompt, a token, a token, the rest
        logits, cache = model(IDS[:, begin:end], cache)
        np.testing.assert_allclose(logits, whole[:, begin:end], rtol=0, atol=SAME)
    assert [tuple(a.shape) for layer in cache for a in layer] == [(3, 9, TINY.kv_width)] * 4


def test_no_token_sees_later_ones(model: Any) -> None:
    """Catches a causal mask that is missing, or shifted in either direction."""
    changed = IDS.copy()
    changed[:, 5] = (IDS[:, 5] + 1) % 11
    moved = abs(np.asarray(model(changed)) - np.asarray(model(IDS))).max((0, 2))
    assert (moved[:5] == 0).all()
    assert (moved[5:] > 1e-6).all()


def test_tied_head_is_the_embedding() -> None:
    """Catches a tied head that is another matrix, on either side."""
    arrays = draw.weights(TIED, 0)
    own = arrays | {"lm_head.weight": arrays["model.embed_tokens.weight"]}
    ids = torch.tensor(IDS)
    tied, untied = (
        torch_impl.state.build(c, w, "float64")(ids) for c, w in ((TIED, arrays), (TINY, own))
    )
    torch.testing.assert_close(tied, untied, rtol=0, atol=SAME)
    with jax.enable_x64(True):
        port: Any = jax_impl.state.build(TIED, to_jax(TIED, arrays), "float64")
        found = port(jnp.asarray(IDS))
    np.testing.assert_allclose(found, tied.detach().numpy(), rtol=0, atol=SAME)


@pytest.mark.parametrize(
    "wrong", [{"depth": 0}, {"head_dim": 5}, {"kv_width": 24}, {"base": 0.0}, {"eps": 0.0}], ids=str
)
def test_config_refuses_nonsense(wrong: dict) -> None:
    """Catches a table that cannot be built."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dataclasses.replace(TINY, **wrong)


def test_no_tokens_are_refused() -> None:
    """Catches a sequence without a token, which fails deep inside."""
    model = torch_impl.state.build(TINY, draw.weights(TINY, 0))
    with pytest.raises(ValueError, match="0 tokens, but decoder needs 1 or more"):
        model(torch.zeros(1, 0, dtype=torch.long))


def test_no_recipe_of_images_trains_it() -> None:
    """Catches a training on images that fails deep inside."""
    stage = RECIPES["genet-cifar10"].stages[0]
    with pytest.raises(ValueError, match="model is decoder, which takes token ids"):
        dataclasses.replace(stage, model="decoder")
