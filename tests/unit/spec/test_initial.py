"""What training begins with: the drawn initialisation, and what a stage takes over."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from flax import nnx

import jax_impl.models
import jax_impl.state
import torch_impl.models
from parity.spec import draw
from parity.spec.errors import InputError
from parity.spec.initial import initial
from parity.spec.models import MODELS, Config
from parity.spec.networks.genet import GENetConfig
from parity.spec.tensors import STATISTICS, tensors
from parity.spec.training.recipe import INITIALS
from parity.spec.training.stages import carried
from weights_convert import to_torch

Arrays = dict[str, np.ndarray]
FAMILIES = (
    *("enet", "enet-mindspore-encoder", "erfnet", "erfnet-imagenet"),
    *("genet-extent4", "decoder"),
)
SIGMAS = 6.0


def of_torch(config: Config) -> Arrays:
    torch.manual_seed(0)
    model = torch_impl.models.NETWORKS[config.family](config)
    return {k: v.numpy() for k, v in model.state_dict().items()}


def of_jax(config: Config) -> Arrays:
    model = jax_impl.models.NETWORKS[config.family](config, rngs=nnx.Rngs(0))
    return to_torch(config, jax_impl.state.state(model))


def alike(config: Config, arrays: Arrays) -> dict[Any, np.ndarray]:
    """Tensors that PyTorch draws from one distribution, joined; statistics and slopes, too."""
    specs, joined = tensors(config), {}
    for key, array in arrays.items():
        weight = specs.get(f"{key.rpartition('.')[0]}.weight", specs[key])
        sort = (specs[key].kind, weight.kind, weight.shape[1:])
        joined.setdefault(sort, []).append(array.ravel())
    return {sort: np.concatenate(parts).astype(np.float64) for sort, parts in joined.items()}


def same_distribution(a: np.ndarray, b: np.ndarray) -> bool:
    """Two samples of as many numbers: means and deviations are equal within sampling error."""
    if a.std() == 0 or b.std() == 0:
        return np.array_equal(a, b)
    n, spread = len(a), max(a.std(), b.std())
    kurtosis = max(np.mean((x - x.mean()) ** 4) / x.var() ** 2 for x in (a, b))
    mean = abs(a.mean() - b.mean()) <= SIGMAS * spread * math.sqrt(2 / n)
    deviation = math.sqrt(2 * max(kurtosis - 1, 0.2) / (4 * n))
    return bool(mean and abs(math.log(a.std() / b.std())) <= SIGMAS * deviation)


@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize("side", ["drawn", "jax"])
def test_as_pytorch_initialises(model: str, side: str) -> None:
    """Catches faults 19 and 38: another fan, another bound, biases or slopes at another value."""
    config = MODELS[model]
    expected = alike(config, of_torch(config))
    found = alike(config, initial(config, "torch", 1) if side == "drawn" else of_jax(config))
    assert found.keys() == expected.keys()
    for sort, sample in expected.items():
        assert same_distribution(found[sort], sample), sort
        # A uniform sample ends where its bound is, a normal one of the same deviation does not;
        # of n numbers the last x / n of the way is empty with probability exp(-x).
        assert abs(found[sort]).max() <= abs(sample).max() * (1 + 20 / len(sample)), sort


def test_the_comparison_sees_another_fan() -> None:
    """Catches a test of statistics that passes anything: a fan of twice the size, normal draws."""
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-1, 1, (2, 400))
    assert same_distribution(a, b)
    assert not same_distribution(a, b * math.sqrt(2))
    assert not same_distribution(a, b + 0.5)


@pytest.mark.parametrize("model", ["enet-mindspore", "erfnet-mindspore"])
def test_xavier(model: str) -> None:
    """Catches biases that are not 0, and layers of E-NET whose rule is MindSpore's default."""
    config = MODELS[model]
    made, specs = initial(config, "xavier", 3), tensors(config)
    left = 0
    for key, spec in specs.items():
        if spec.kind == "bias":
            assert not made[key].any()
        if spec.kind not in ("conv", "conv_transpose") or made[key].size < 256:
            continue
        by_default = "sample" in key and key.endswith(
            ("0.ext_conv3.0.weight", "ext_conv2.0.weight")
        )
        by_default &= spec.shape[2:] == (1, 1)
        left += by_default
        fans = sum(spec.shape[:2]) * math.prod(spec.shape[2:])
        deviation = 0.01 if by_default else math.sqrt(2 / fans)
        error = SIGMAS / math.sqrt(2 * made[key].size)
        assert abs(made[key].std() / deviation - 1) <= error, key
        bound = math.inf if by_default else math.sqrt(6 / fans)
        assert abs(made[key]).max() <= np.float32(bound)
    assert left == (4 if model == "enet-mindspore" else 0)


def test_he_fan_out() -> None:
    """Catches a fan of inputs, and one output for a depthwise kernel."""
    config = GENetConfig(extent=4, extra_params=True)
    made, specs = initial(config, "he-fan-out", 3), tensors(config)
    assert not made["fc.bias"].any()
    assert abs(made["fc.weight"]).max() <= 1 / math.sqrt(specs["fc.weight"].shape[1])
    for key, spec in specs.items():
        if spec.kind == "conv":
            outputs, _, kh, kw = spec.shape
            deviation = math.sqrt(2 / (kh * kw * outputs))
            error = SIGMAS / math.sqrt(2 * made[key].size)
            assert abs(made[key].std() / deviation - 1) <= error, key


def test_bits_depend_on_seed_and_name_alone() -> None:
    """Catches a draw that shifts when a network gains a layer, and one seed for all."""
    whole, encoder = MODELS["enet-mindspore"], MODELS["enet-mindspore-encoder"]
    a, b, c = initial(whole, "torch", 1), initial(encoder, "torch", 1), initial(whole, "torch", 2)
    shared = [k for k in a if k in b and k.endswith("0.weight")]
    assert shared
    assert all(np.array_equal(a[k], b[k]) for k in shared)
    assert not any(np.array_equal(a[k], c[k]) for k in shared)
    assert {x.dtype for x in a.values()} == {np.dtype(np.float32), np.dtype(np.int64)}


def test_another_rule_is_refused() -> None:
    """Catches a recipe's rule that nobody wrote."""
    for rule in INITIALS:
        initial(GENetConfig(depth=10, width=1), rule, 0)
    with pytest.raises(ValueError, match="initial is 'zeros'"):
        initial(MODELS["enet"], "zeros", 0)


STAGES = [
    ("enet-mindspore-encoder", "enet-mindspore", "", ("upsample", "regular4", "regular5", "trans")),
    ("erfnet-encoder", "erfnet", "", ("decoder.",)),
    ("erfnet-imagenet", "erfnet", "features.", ("decoder.", "encoder.output_conv.")),
    ("enet-mindspore", "enet-mindspore", "", ("nothing",)),
]


@pytest.mark.parametrize(("first", "second", "prefix", "new"), STAGES)
def test_what_comes_along(first: str, second: str, prefix: str, new: tuple[str, ...]) -> None:
    """Catches fault 54: a decoder with the statistics it had beside the encoder's head."""
    before, config = MODELS[first], MODELS[second]
    arrays, drawn = draw.weights(before, 1), initial(config, "torch", 2)
    made = carried(before, arrays, config, drawn)
    assert list(made) == list(tensors(config))
    for key, array in made.items():
        source = drawn[key] if key.startswith(new) else arrays[prefix + key]
        assert array is source, key
    kinds = {tensors(config)[k].kind for k in made if not k.startswith(new)}
    assert kinds >= set(STATISTICS)


def test_what_does_not_come_along() -> None:
    """Catches a start from another network, or from one with other classes, that goes on."""
    config = MODELS["erfnet"]
    with pytest.raises(InputError, match="a GENet holds nothing that an ERFNet begins with"):
        carried(MODELS["genet"], draw.weights(MODELS["genet"], 0), config, {})
    other: Any = dataclasses.replace(MODELS["enet-mindspore"], num_classes=7)
    before = MODELS["enet-mindspore"]
    with pytest.raises(InputError, match=r"transposed_conv.weight is 16x20x3x3, expected 16x7x3x3"):
        carried(before, draw.weights(before, 0), other, {})
