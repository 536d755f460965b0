"""Ports of every sort: Linen, functions, and networks of unrelated names and nesting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn

from parity import Port, check
from parity.ladder.climb import climb
from tests.pair import MAP, SIZE, STATISTICS, plain, port
from tests.resnet import ResNet
from tests.torchvision_import import torchvision


class LinenPort(linen.Module):
    """The reference as a compact Linen module."""

    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> dict:
        x = linen.Conv(8, (3, 3), padding=((1, 1), (1, 1)))(x)
        x = jax.nn.relu(linen.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = linen.Dropout(0.5, deterministic=not train)(x.mean((1, 2)))
        return {"logits": linen.Dense(5)(x), "parts": (x, x.sum(1))}


def test_linen() -> None:
    """Catches a Linen module whose layers or statistics are not compared.

    Flax's batch norm stores the biased variance: that, and only that, must be found.
    """
    renamed = {"first": "Conv_0", "second": "BatchNorm_0", "last": "Dense_0"}
    weights = {
        f"{renamed[name.partition('.')[0]]}.{name.partition('.')[2]}": source
        for name, source in MAP.items()
    }
    variables = LinenPort().init(jax.random.key(0), jnp.zeros(SIZE))
    report = check(
        port(
            port=LinenPort(),
            params=variables,
            weights=weights,
            modes=({"train": False}, {"train": True}),
        )
    )
    assert {c.layer for c in report.checks if c.rung == "L1"} == set(renamed.values())
    assert {(c.layer, str(c.quantity)) for c in report.failures()} == {
        ("BatchNorm_0", "var after"),
        ("BatchNorm_0", "var after a step"),
    }


@pytest.mark.parametrize("slip", [0.0, 1e-3])
def test_function(slip: float) -> None:
    """Catches a plain function that cannot be checked, or whose fault is not seen."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    params = {"w": np.zeros((6, 4), np.float32), "b": np.zeros(4, np.float32)}
    report = check(
        Port(
            module,
            lambda p, x: plain(p, x) * (1 + slip),
            inputs=(3, 6),
            params=params,
            weights={"w": ("0.weight", (1, 0)), "b": ("0.bias", None)},
        )
    )
    assert report.ok == (slip == 0)
    assert {c.rung for c in report.checks} == {"L0", "L1", "L2", "L3"}


@pytest.fixture(scope="module")
def resnets() -> Callable[[], Port]:
    """Torchvision's ResNet-18 beside one of unrelated names and nesting."""
    torch.manual_seed(0)
    module = torchvision().models.resnet18()
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for tensor in (layer.weight, layer.running_var):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (layer.bias, layer.running_mean):
                    tensor.normal_(0, 0.1)

    def make() -> Port:
        return Port(module, ResNet(rngs=nnx.Rngs(0)), inputs=(2, 40, 48, 3), weights=resnet_rules())

    return make


def resnet_rules() -> list:
    found: list = [
        (r"conv1\.weight", "stem.project.kernel", (2, 3, 1, 0)),
        (r"fc\.weight", "classify.kernel", (1, 0)),
        (r"fc\.bias", "classify.bias"),
    ]
    norms = {r"bn1\.": "stem.normalise"}
    for i in range(8):
        block, unit = rf"layer{i // 2 + 1}\.{i % 2}\.", f"units.{i}"
        for theirs, ours in (("conv1", "first"), ("conv2", "second")):
            found.append((rf"{block}{theirs}\.weight", f"{unit}.{ours}.kernel", (2, 3, 1, 0)))
        skip = f"{unit}.skip.layers"
        found.append((rf"{block}downsample\.0\.weight", f"{skip}.0.kernel", (2, 3, 1, 0)))
        norms |= {rf"{block}bn1\.": f"{unit}.first_norm", rf"{block}bn2\.": f"{unit}.second_norm"}
        norms[rf"{block}downsample\.1\."] = f"{skip}.1"
    return found + [
        (prefix + theirs, f"{layer}.{ours}")
        for prefix, layer in norms.items()
        for theirs, ours in STATISTICS.items()
    ]


def test_resnet18(resnets: Callable[[], Port], tmp_path: Path) -> None:
    """Catches a referee that can only compare networks which mirror each other."""
    report = check(resnets())
    report.assert_faithful()
    pairs = {c.layer: c.reference for c in report.checks if c.rung in ("L1", "L2")}
    assert pairs["units.4.skip.layers.0"] == "layer3.0.downsample.0"
    assert pairs["units.7"] == "layer4.1"  # a block: nothing but its value says so
    assert len({c.layer for c in report.checks if c.rung == "L1"}) == 41  # all with weights
    report.to_html(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "units.4.skip.layers.0" in page
    assert page.count("<polyline") == 4  # either precision in either mode


def epsilon(network: nnx.Module) -> None:
    """A fault, and beside it what is none: this padding is the same at stride 1."""
    network.units[3].first_norm.epsilon = 1e-3
    network.units[4].second.padding = "SAME"


@pytest.mark.parametrize(
    ("plant", "named"),
    [
        (epsilon, "units.3.first_norm"),
        (lambda n: setattr(n.units[4].first, "padding", "SAME"), "units.4.first"),
    ],
)
def test_resnet18_with_a_fault(resnets: Callable[[], Port], plant: Callable, named: str) -> None:
    """Catches a fault in a network of other names that is not found where it is."""
    p = resnets()
    plant(p.port)
    report = climb(p, levels=("L1",))
    assert report.fault().layer == named
    assert {c.layer for c in report.failures()} == {named}
