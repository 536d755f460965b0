"""Ports of every sort: Linen, functions, and networks of unrelated names and nesting."""

from __future__ import annotations

import os
import subprocess
import sys
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
from tests.pair import MAP, SIZE, plain, port
from tests.resnet import ResNet
from tests.torchvision_resnets import port as resnet
from tests.torchvision_resnets import reference, resnet18, rules

SMALL = (2, 40, 48, 3)  # images on which a ResNet is quick


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
    """A small ResNet of torchvision's beside one of unrelated names and nesting."""
    module = reference(10)

    def make() -> Port:
        network = ResNet(10, rngs=nnx.Rngs(0))
        return Port(module, network, inputs=SMALL, weights=rules(10))

    return make


def test_resnet(resnets: Callable[[], Port], tmp_path: Path) -> None:
    """Catches a referee that can only compare networks which mirror each other."""
    report = check(resnets())
    report.assert_faithful()
    pairs = {c.layer: c.reference for c in report.checks if c.rung in ("L1", "L2")}
    assert pairs["units.2.skip.layers.0"] == "layer3.0.downsample.0"
    assert pairs["units.0"] == "layer1.0"  # a block: nothing but its value says so
    assert len({c.layer for c in report.checks if c.rung == "L1"}) == 25  # all with weights
    report.to_html(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "units.2.skip.layers.0" in page
    assert page.count("<polyline") == 4  # either precision in either mode


@pytest.mark.long
def test_resnet18() -> None:
    """Catches a referee that loses count where many layers have the same shapes."""
    report = check(resnet18())
    report.assert_faithful()
    pairs = {c.layer: c.reference for c in report.checks if c.rung in ("L1", "L2")}
    assert pairs["units.4.skip.layers.0"] == "layer3.0.downsample.0"
    assert pairs["units.7"] == "layer4.1"
    assert len({c.layer for c in report.checks if c.rung == "L1"}) == 41


@pytest.mark.parametrize(
    ("depth", "layer", "reference", "count"),
    [
        (14, "units.2.spatial", "layer3.0.conv2", 35),
        pytest.param(50, "units.7.spatial", "layer3.0.conv2", 107, marks=pytest.mark.long),
    ],
)
def test_bottlenecks_are_paired_layer_by_layer(
    depth: int, layer: str, reference: str, count: int
) -> None:
    """Catches bottlenecks of unrelated names that are not paired, at a size that is quick."""
    report = check(resnet(depth, SMALL), levels=("L0", "L1"))
    report.assert_faithful()
    pairs = {c.layer: c.reference for c in report.checks if c.rung == "L1"}
    assert pairs[layer] == reference
    assert len(pairs) == count  # all with weights


@pytest.mark.long
def test_resnet50_at_full_size(tmp_path: Path) -> None:
    """Catches a check that is wrong, or outgrows 4 GiB, where a network has its usual size."""
    cold = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "parity", "check", "tests.torchvision_resnets:resnet50"]
    with subprocess.Popen(command, env=cold) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    print(f"{usage.ru_utime + usage.ru_stime:.0f} s of CPU time, {usage.ru_maxrss / 2**20:.2f} GiB")
    assert process.returncode == 0
    assert usage.ru_maxrss <= 4 * 2**20


def epsilon(network: nnx.Module) -> None:
    """A fault, and beside it what is none: this padding is the same at stride 1."""
    network.units[3].first_norm.epsilon = 1e-3
    network.units[2].second.padding = "SAME"


@pytest.mark.parametrize(
    ("inject", "named"),
    [
        (epsilon, "units.3.first_norm"),
        (lambda n: setattr(n.units[2].first, "padding", "SAME"), "units.2.first"),
    ],
)
def test_resnet_with_a_fault(resnets: Callable[[], Port], inject: Callable, named: str) -> None:
    """Catches a fault in a network of other names that is not found where it is."""
    p = resnets()
    inject(p.port)
    report = climb(p, levels=("L1",))
    assert report.fault().layer == named
    assert {c.layer for c in report.failures()} == {named}
