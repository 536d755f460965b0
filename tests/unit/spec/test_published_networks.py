"""Dropout of every module of both sides, and facts of the networks, as they are published.

The networks are made as a stage of a recipe makes them, without memory for their weights.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_impl.models
import torch_impl.models
from jax_impl.layers import convolution, linear
from jax_impl.layers.dropout import Dropout as JaxDropout
from jax_impl.layers.dropout import Dropout2d as JaxDropout2d
from jax_impl.layers.normalization import BatchNorm2d as JaxBatchNorm
from parity.spec import recipes
from parity.spec.initial import initial
from parity.spec.models import MODELS, Config
from parity.spec.tensors import tensors
from parity.spec.training.recipe import Stage
from tests.published_training import Entry, holds
from tests.torchvision_import import torchvision
from torch_impl.layers.dropout import Dropout as TorchDropout
from torch_impl.layers.dropout import Dropout2d as TorchDropout2d


def made_by_torch(config: Config) -> torch.nn.Module:
    with torch.device("meta"):
        return torch_impl.models.NETWORKS[config.family](config)


@functools.cache
def of_torch(config: Config) -> dict[str, tuple[float, bool]]:
    """Published name of each module that drops -> probability, and whether it drops channels."""
    modules = made_by_torch(config).named_modules()
    drops = {name: m for name, m in modules if isinstance(m, TorchDropout | torch.nn.Dropout)}
    return {name: (m.p, isinstance(m, TorchDropout2d)) for name, m in drops.items()}


@functools.cache
def made_by_jax(config: Config) -> nnx.Module:
    """Without drawing its weights, which takes seconds to trace."""
    network = jax_impl.models.NETWORKS[config.family]
    with (
        mock.patch.object(convolution, "uniform", zeros),
        mock.patch.object(linear, "uniform", zeros),
    ):
        return nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0)))


def zeros(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> jax.Array:
    return jnp.zeros(shape)


def jax_modules(config: Config, kind: type[nnx.Module]) -> dict[str, nnx.Module]:
    made = made_by_jax(config)
    found = {".".join(map(str, path)): m for path, m in nnx.iter_graph(made)}
    return {name: m for name, m in found.items() if isinstance(m, kind)}


@functools.cache
def of_jax(config: Config) -> dict[str, tuple[float, bool]]:
    """Return the dropouts of the JAX side, whose paths are those of PyTorch's."""
    drops = jax_modules(config, JaxDropout)
    return {name: (m.p, isinstance(m, JaxDropout2d)) for name, m in drops.items()}


def check_dropout(stage: Stage, expected: dict[str, float], channels: bool) -> None:
    """Check both sides' modules, and the masks that are drawn for them."""
    config = stage.config
    told = {name: (p, channels) for name, p in expected.items()}
    assert of_torch(config) == told
    assert of_jax(config) == told
    sites = config.dropout_sites(*config.check_size)
    drawn = {}
    for site, (p, shape) in sites.items():
        drawn[site] = p
        assert len(shape) == (1 if channels else 3)
    names = {name.rpartition(".")[0]: p for name, p in expected.items() if p}
    assert drawn == names


@holds("enet/dropout_cityscapes", "enet/dropout_camvid")
def test_dropout_of_enet(cityscapes: Entry, camvid: Entry) -> None:
    """Catches a module that drops with another probability, elements, or not at all."""
    for names, entry in (
        (("enet-cityscapes", "enet-bench"), cityscapes),
        (("enet-camvid",), camvid),
    ):
        for name in names:
            (stage,) = recipes.recipe(name).stages
            check_dropout(stage, entry.plain(), channels=True)


@holds("erfnet/dropout", "erfnet/dropout_imagenet")
def test_dropout_of_erfnet(entry: Entry, imagenet: Entry) -> None:
    """Catches the same of ERFNet's; begun from ImageNet, 0.1 stays (the encoder is that object)."""
    expected, from_imagenet = entry.plain(), imagenet.plain()
    for stage in recipes.recipe("erfnet-cityscapes").stages:
        check_dropout(stage, expected, channels=True)
    (stage,) = recipes.recipe("erfnet-cityscapes-imagenet").stages
    bare = {name.removeprefix("features."): p for name, p in from_imagenet.items()}
    decoder = {name: p for name, p in expected.items() if name.startswith("decoder.")}
    check_dropout(stage, bare | decoder, channels=True)
    told = {name.removeprefix("features."): (p, True) for name, p in from_imagenet.items()}
    for found in (of_torch(MODELS["erfnet-imagenet"]), of_jax(MODELS["erfnet-imagenet"])):
        assert {name.removeprefix("features."): p for name, p in found.items()} == told


@holds(
    "erfnet_mindspore/dropout_64_128_channels",
    "erfnet_mindspore/dropout_is",
    "erfnet_mindspore/checkpoint_names",
)
def test_dropout_of_mindspores_erfnet(entry: Entry, kind: str, names: Entry) -> None:
    """Catches one device's dropout on several, a stage's in another, and channels dropped."""
    recipe = recipes.recipe("erfnet-mindspore")
    assert kind == "element-wise"
    expected = {number: tuple(p.plain()) for number, p in entry["several devices"].items()}
    one, decoder = tuple(entry["one device"].plain()), entry["decoder"]
    encoders = [name.startswith("Encoder_pred") for name in names.plain().values()]
    assert encoders == [True, False]
    assert list(names.plain()) == ["stages 1, 2", "stages 3, 4"]
    for number in range(4):
        for devices in (1, 2, 8):
            stage = recipe.on(devices).stages[number]
            assert stage.model.endswith("encoder") == (number < 2)
            narrow, wide = one if devices == 1 else expected[str(number + 1)]
            rates = {f"encoder.layers.{i}.dropout": narrow for i in range(1, 6)}
            rates |= {f"encoder.layers.{i}.dropout": wide for i in range(7, 15)}
            rates |= {f"decoder.layers.{i}.dropout": float(decoder) for i in (1, 2, 4, 5)}
            check_dropout(stage, rates, channels=False)


def test_dropout_of_mindspores_enet() -> None:
    """Catches channels dropped where MindSpore drops elements, and other probabilities."""
    for stage in recipes.recipe("enet-mindspore").on(4).stages:
        found = of_torch(stage.config)
        assert found == of_jax(stage.config)
        assert found["downsample1_0.ext_regul"] == (0.01, False)
        assert {p for name, p in found.items() if "1_" not in name} == {(0.1, False)}


# Parameters of the published code, statistics not counted.
PARAMETERS = {
    "enet": 351_804,
    "enet-camvid": 350_652,
    "enet-mindspore": 358_039,  # a slope for each channel
    "erfnet": 1_874_044 + 2_580 + 190_212,
    "erfnet-mindspore": 1_874_044 + 2_580 + 190_212,
    "erfnet-imagenet": 1_874_044 + 128 * 1000 + 1000,
    "icnet": 28_298_376,  # with a classifier that nothing uses
    "genet": 10_961_370,
    "genet-mean2": 10_961_370,
    "genet-theta": 11_423_706,
    "genet-theta-plus": 11_509_722,
    "genet-extent2": 10_981_082,
    "genet-extent4": 11_000_794,
    "genet-extent8": 11_020_506,
}


@pytest.mark.parametrize("model", PARAMETERS)
def test_parameters(model: str) -> None:
    """Catches a layer of another width, a bias too many, and slopes shared or not shared."""
    modules = made_by_torch(MODELS[model])
    assert sum(p.numel() for p in modules.parameters()) == PARAMETERS[model]
    made = nnx.state(made_by_jax(MODELS[model]), nnx.Param)
    held = [leaf for _, leaf in nnx.to_flat_state(made)]
    assert sum(math.prod(leaf.shape) for leaf in held) == PARAMETERS[model]


@pytest.mark.parametrize(
    ("model", "window"), [("genet", 0), ("genet-mean2", 2), ("genet-mean4", 4), ("genet-mean8", 8)]
)
def test_means_of_genet(model: str, window: int) -> None:
    """Catches a gate that takes means over another extent, which no weight shows."""
    small = dataclasses.replace(MODELS[model], depth=10, width=1)  # type: ignore[type-var]  # a Config is a frozen dataclass
    made = torch_impl.models.NETWORKS["genet"](small)
    for group, side in (("block1", 32), ("block2", 16), ("block3", 8)):
        x = torch.arange(2.0 * side * side).reshape(1, 2, side, side).sin()
        found = made.get_submodule(f"{group}.layer.0.downop")(x)
        expected = torch.nn.functional.avg_pool2d(x, window or side)
        torch.testing.assert_close(found, expected)


def test_numbers_of_transformers() -> None:
    """Catches another eps or base, which no weight shows: torchvision's ViT, Llama 2's config."""
    vit = inspect.signature(torchvision().models.vision_transformer.VisionTransformer).parameters
    assert MODELS["vit"].describe()["eps"] == vit["norm_layer"].default.keywords["eps"]
    for model in ("decoder", "decoder-tied"):
        told = MODELS[model].describe()
        assert (told["eps"], told["base"]) == (1e-5, 10_000)  # rms_norm_eps, rope_theta


def test_parameters_of_icnet_that_are_used() -> None:
    """Catches a classifier that is trained: without it, 26,249,376 are left."""
    modules = made_by_torch(MODELS["icnet"])
    unused = tuple(getattr(MODELS["icnet"], "idle", ()))
    held = [p.numel() for name, p in modules.named_parameters() if not name.startswith(unused)]
    assert sum(held) == 26_249_376


@pytest.mark.parametrize(
    ("model", "eps"),
    [
        ("enet", 1e-5), ("enet-mindspore", 1e-5), ("erfnet", 1e-3), ("erfnet-mindspore", 1e-3),
        ("erfnet-imagenet", 1e-3), ("icnet", 1e-5), ("genet", 1e-5), ("genet-extent4", 1e-5),
    ],
)  # fmt: skip
def test_batch_norms(model: str, eps: float) -> None:
    """Catches an eps or a momentum of another network; MindSpore's 0.9 is 0.1 here."""
    config = MODELS[model]
    theirs = {
        name: (m.eps, m.momentum)
        for name, m in made_by_torch(config).named_modules()
        if isinstance(m, torch.nn.BatchNorm2d)
    }
    ours = {name: (m.eps, m.momentum) for name, m in jax_modules(config, JaxBatchNorm).items()}
    names = {k.rpartition(".")[0] for k in tensors(config) if k.endswith("running_var")}
    assert theirs.keys() == ours.keys() == names
    assert set(theirs.values()) == set(ours.values()) == {(eps, 0.1)}


def test_biases() -> None:
    """Catches a bias in ENet, GENet or ICNet, whose convolutions have none, and none elsewhere."""
    for model, config in MODELS.items():
        specs = tensors(config)
        convolutions = [k for k, t in specs.items() if t.kind in ("conv", "conv_transpose")]
        biased = {k for k in convolutions if f"{k.removesuffix('weight')}bias" in specs}
        if config.family.startswith(("erfnet", "vit", "decoder")):
            assert biased == set(convolutions), model
        else:
            heads = {k for k in biased if k.rpartition(".")[0].endswith(("output_conv", "_cls"))}
            assert biased == heads, model


INITIALS = {
    "enet-cityscapes": "torch",
    "enet-camvid": "torch",
    "enet-bench": "torch",
    "erfnet-cityscapes": "torch",
    "erfnet-cityscapes-imagenet": "torch",
    "icnet-cityscapes": "torch",
    "icnet-cityscapes-corrected": "torch",
    "icnet-ascend": "torch",
    "enet-mindspore": "xavier",
    "erfnet-mindspore": "xavier",
    "genet-cifar10": "he-fan-out",
    "genet-cifar10-8p": "he-fan-out",
}


def test_initial_rules() -> None:
    """Catches a recipe that draws its weights by another program's rule."""
    found = {r.name: {s.initial for s in r.stages} for r in recipes.RECIPES.values()}
    assert found == {name: {rule} for name, rule in INITIALS.items()}


def test_bounds_of_initial_weights() -> None:
    """Catches another fan or factor: the largest of many uniform numbers is next to its bound."""
    fans = {
        # PyTorch: 1 / sqrt(fan_in), of a transposed convolution that of its outputs.
        ("erfnet-cityscapes", "encoder.layers.7.conv3x1_1.weight"): 1 / math.sqrt(128 * 3),
        ("erfnet-cityscapes", "decoder.layers.0.conv.weight"): 1 / math.sqrt(64 * 9),
        ("erfnet-cityscapes", "encoder.layers.7.conv3x1_1.bias"): 1 / math.sqrt(128 * 3),
        # XavierUniform: sqrt(6 / (fan_in + fan_out)).
        ("erfnet-mindspore", "encoder.layers.7.conv3x1_1.weight"): math.sqrt(6 / (2 * 128 * 3)),
        ("erfnet-mindspore", "encoder.layers.7.conv3x1_1.bias"): 0.0,
        # N(0, sqrt(2 / (k * k * out))), of which 590,000 numbers reach about 4.8 deviations.
        ("genet-cifar10", "block2.layer.1.conv1.weight"): 4.8 * math.sqrt(2 / (9 * 256)),
        ("genet-cifar10", "fc.bias"): 0.0,
    }
    for (name, key), bound in fans.items():
        stage = recipes.recipe(name).stages[-1]
        made = initial(stage.config, stage.initial, 1)[key]
        normal = name == "genet-cifar10"
        np.testing.assert_allclose(abs(made).max(), bound, rtol=0.12 if normal else 0.02)
        assert abs(made).max() <= np.float32(bound) or normal
