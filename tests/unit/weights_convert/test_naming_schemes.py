"""Naming schemes: every tensor under the name and in the layout that each network expects."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

import jax_impl.state
import torch_impl.state
from jax_impl.models.enet import ENet
from parity.spec.draw import weights
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.spec.networks.enet import ENetConfig
from parity.spec.tensors import tensors
from tests.checkpoints import equal
from weights_convert import formats, load, naming, to_jax, to_torch, wrapping

FILE = Path("FILE")
CONFIG = ENetConfig(num_classes=3)
VARIANTS = [
    dataclasses.replace(CONFIG, encoder_relu=encoder, decoder_relu=decoder)
    for encoder in (False, True)
    for decoder in (False, True)
]
CONV = "regular1_1.ext_conv2.0"
TRANSPOSED = "upsample4_0.ext_tconv1"


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return weights(CONFIG, 0)


@pytest.mark.parametrize("config", VARIANTS[1:3])  # each choice in one of the two
def test_names_are_those_of_the_networks(config: ENetConfig) -> None:
    """Catches a name or shape that one of the networks does not have, or has besides."""
    drawn = weights(config, 0)
    assert equal(torch_impl.state.state(torch_impl.state.build(config, drawn)), drawn)
    abstract = nnx.eval_shape(lambda: ENet(config, rngs=nnx.Rngs(0)))
    flat = nnx.to_flat_state(nnx.state(abstract))
    expected = {jax_impl.state.name(path): leaf.shape for path, leaf in flat}
    assert {k: v.shape for k, v in to_jax(config, drawn).items()} == expected


@pytest.mark.parametrize("config", VARIANTS)
def test_there_and_back(config: ENetConfig) -> None:
    """Catches a layout whose inverse is not its inverse, a cast, a lost order, shared memory."""
    dtypes = itertools.cycle(formats.base.numpy_dtype(name) for name in naming.FLOATS)
    drawn = {
        k: v.astype(next(dtypes)) if v.dtype == np.float32 else v
        for k, v in weights(config, 1).items()
    }
    back = to_torch(config, to_jax(config, drawn))
    assert list(back) == list(drawn)
    assert equal(back, drawn)
    assert not any(np.shares_memory(back[key], drawn[key]) for key in drawn)


def test_layout_of_kernels(arrays: dict[str, np.ndarray]) -> None:
    """Catches two axes exchanged, also where they are of one length."""
    named = to_jax(CONFIG, arrays)
    o, i, h, w = 5, 3, 1, 0
    conv, kernel = arrays[f"{CONV}.weight"], named[f"{CONV}.kernel"]
    assert kernel.shape == (3, 3, 16, 16)
    assert kernel[h, w, i, o] == conv[o, i, h, w] != conv[i, o, h, w] != conv[o, i, w, h]
    conv, kernel = arrays[f"{TRANSPOSED}.weight"], named[f"{TRANSPOSED}.kernel"]
    assert kernel.shape == (2, 2, 32, 32)
    assert kernel[h, w, o, i] == conv[i, o, h, w] != conv[o, i, h, w] != conv[i, o, w, h]


def test_names_of_the_other_kinds(arrays: dict[str, np.ndarray]) -> None:
    """Catches the tensors of a batch norm exchanged: they are all of one shape."""
    named = to_jax(CONFIG, arrays)
    prefix = "regular1_1.ext_conv1.1"
    table = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    table |= {"num_batches_tracked": "num_batches_tracked"}
    for torch_name, jax_name in table.items():
        np.testing.assert_array_equal(
            named[f"{prefix}.{jax_name}"], arrays[f"{prefix}.{torch_name}"], strict=True
        )
    slope = named["regular1_1.ext_conv1.2.negative_slope"]
    assert slope == arrays["regular1_1.ext_conv1.2.weight"]


def test_counters_of_jax_become_int64(arrays: dict[str, np.ndarray]) -> None:
    """Catches JAX's int32 counters refused, or carried to PyTorch as int32."""
    named = {
        k: v.astype(np.int32) if v.dtype == int else v for k, v in to_jax(CONFIG, arrays).items()
    }
    assert equal(to_torch(CONFIG, named), arrays)


@pytest.mark.parametrize("naming_scheme", naming.NAMING_SCHEMES)
def test_detects_naming_scheme_and_variant(naming_scheme: str) -> None:
    """Catches a file read in the wrong names, or as another variant of the network."""
    for config in VARIANTS:
        named = naming.to_naming_scheme(config, weights(config, 0), naming_scheme)
        assert naming.detect(named) == naming_scheme
        assert naming.config_in("enet", named, naming_scheme) == config


@pytest.mark.parametrize("naming_scheme", naming.NAMING_SCHEMES)
def test_one_error_counts_all_offenders(naming_scheme: str, arrays: dict[str, np.ndarray]) -> None:
    """Catches a check that stops at the first fault, or names only one kind of several."""
    named = naming.to_naming_scheme(CONFIG, arrays, naming_scheme)
    keys = list(named)
    lost, bent = [keys[4], keys[50]], [keys[10], keys[60]]
    for key in lost:
        named["extra." + key] = named.pop(key)
    for key in bent:
        named[key] = named[key][..., None]
    with pytest.raises(InputError) as caught:
        naming.to_canonical(CONFIG, named, naming_scheme, "FILE")
    message = str(caught.value)
    counts = "2 missing, 2 not expected, 2 of another shape"
    assert message.startswith(f"FILE: 6 tensors do not match ({counts}): ")
    assert message.endswith(" and 1 more")
    assert len(message.splitlines()) == 1
    for key in lost:
        assert f"{key} is missing" in message
        assert f"extra.{key} is not expected" in message
    for key in bent[:1]:
        assert f"x1, expected {'x'.join(map(str, named[key].shape[:-1]))}" in message


def test_tensors_of_another_network(arrays: dict[str, np.ndarray]) -> None:
    """Catches a foreign file whose own names are not told."""
    with pytest.raises(InputError, match=r"missing, such as .*; found instead: fc.weight, fc.bias"):
        naming.to_canonical(CONFIG, {"fc.weight": np.zeros(1), "fc.bias": np.zeros(1)}, "torch")


@pytest.mark.parametrize(
    ("key", "dtype"),
    [
        ("transposed_conv.weight", "int64"),
        ("transposed_conv.weight", "bool"),
        ("initial_block.batch_norm.num_batches_tracked", "bool"),
    ],
)
def test_wrong_sort_of_number(key: str, dtype: str, arrays: dict[str, np.ndarray]) -> None:
    """Catches weights that were truncated to integers, and counters that count nothing."""
    wrong = {**arrays, key: arrays[key].astype(dtype)}
    with pytest.raises(InputError, match=f"{key} is {dtype}, expected"):
        naming.to_canonical(CONFIG, wrong, "torch")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_prefixes_of_wrappers(prefix: str, arrays: dict[str, np.ndarray]) -> None:
    """Catches a network that was wrapped refused."""
    found = wrapping.unwrapped({prefix + key: array for key, array in arrays.items()}, FILE)
    assert equal(found.named, arrays)
    assert found.prefix == prefix


def test_a_prefix_of_some_names_stays(arrays: dict[str, np.ndarray]) -> None:
    """Catches a name stripped onto another, one of the two then lost."""
    twice = {**arrays, "module.transposed_conv.weight": arrays["transposed_conv.weight"]}
    found = wrapping.unwrapped(twice, FILE)
    assert found.named.keys() == twice.keys()
    with pytest.raises(InputError, match=r"module.transposed_conv.weight is not expected"):
        naming.to_canonical(CONFIG, found.named, "torch")
    assert wrapping.unwrapped({}, FILE).named == {}


def test_networks_take_what_is_loaded(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Catches a checkpoint that fits a network not at all, or with numbers exchanged."""
    formats.write(tmp_path / "x.safetensors", "safetensors", to_jax(CONFIG, arrays), {})
    found = load(tmp_path / "x.safetensors")
    model = torch_impl.state.build(found.config, found.arrays)
    assert equal(torch_impl.state.state(model), arrays)
    model = jax_impl.state.build(found.config, to_jax(found.config, found.arrays))
    assert equal(to_torch(found.config, jax_impl.state.state(model)), arrays)


def test_a_network_without_outputs(tmp_path: Path) -> None:
    """Catches a traceback for a last layer of no channel."""
    arrays = {"transposed_conv.weight": np.zeros((16, 0, 3, 3), np.float32)}
    formats.write(tmp_path / "x.safetensors", "safetensors", arrays, {})
    with pytest.raises(InputError, match="num_classes is 0"):
        load(tmp_path / "x.safetensors")


def test_a_file_with_offending_keys(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Catches a file with a fault loaded all the same, such as one without statistics."""
    old = {k: v for k, v in arrays.items() if not k.endswith("running_mean")}
    formats.write(tmp_path / "old.pth", "torch", old, {})
    with pytest.raises(InputError) as caught:
        load(tmp_path / "old.pth")
    message = str(caught.value)
    assert str(tmp_path / "old.pth") in message
    lost = len(arrays) - len(old)
    assert f"({lost} missing)" in message
    assert message.count("running_mean is missing") == 5 < lost


@pytest.mark.parametrize("network", ["enet", "erfnet", "icnet", "genet"])
def test_a_network_that_was_an_encoder(network: str) -> None:
    """Catches `encoder.` left before every name, or taken from ERFNet's own."""
    names = {name: np.empty(spec.shape) for name, spec in tensors(MODELS[network]).items()}
    for prefix in ("", "encoder.", "module.encoder."):
        found = wrapping.unwrapped({prefix + name: a for name, a in names.items()}, FILE)
        assert list(found.named) == list(names)
        assert found.prefix == prefix
    part = {name: array for name, array in names.items() if name.startswith("encoder.")}
    assert list(wrapping.unwrapped(part, FILE).named) == list(part)
