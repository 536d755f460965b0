"""The ladder on ICNet: a small one of every part, and the published ones."""

from __future__ import annotations

import jax
import pytest
from flax import nnx

from jax_impl import layers
from parity.diagnosis.check import check
from parity.ladder.climb import climb
from parity.ladder.port import Port
from parity.model_checks.networks import port
from parity.report.report import RUNGS, Report
from parity.spec.models import MODELS
from parity.spec.networks.icnet import ICNetConfig

# The first bottleneck of a stage dilates otherwise than those after it.
SMALL = ICNetConfig(num_classes=5, blocks=(1, 1, 1, 2), width=4, classifier=3)


def small() -> Port:
    """Its smallest map has 2x3 pixels, fewer than the pyramid's 6x6 windows."""
    return port("icnet", SMALL, (64, 88), seed=3)


@pytest.fixture(scope="module")
def report() -> Report:
    return check(small())


@pytest.mark.parametrize("rung", list(RUNGS)[:4])  # the others need an optimizer
def test_icnet(report: Report, rung: str) -> None:
    """Catches any layer, call, output, statistic or gradient of the port that is not ICNet's."""
    checks = [c for c in report.checks if c.rung == rung]
    assert len(checks) >= {"L0": 179, "L1": 1100, "L2": 900, "L3": 180}[rung]
    failed = [c.sentence() for c in checks if not c.ok]
    assert not failed, failed[0]


def test_every_call_is_compared(report: Report) -> None:
    """Catches a ladder that looks at the backbone's first run only."""
    for rung, quantity in (("L1", "output 0"), ("L2", "output 0 in train mode")):
        seen = {c.layer for c in report.checks if c.rung == rung and str(c.quantity) == quantity}
        for layer in ("pretrained.layer4.1.conv2", "pretrained.conv1.0", "ppm.resize"):
            assert {layer, f"{layer}#2"} <= seen
        assert {"ppm.pools.3", "ppm.resize#4", "pretrained.layer4.1.relu#6"} <= seen


class Halves(layers.Resize):
    """Keeps the image's corners instead of the corners' pixels."""

    def __call__(self, x: jax.Array, size: tuple[int, int]) -> jax.Array:
        return layers.Resize(align_corners=False, rngs=nnx.Rngs(0))(x, size)


class Even(layers.AdaptiveAvgPool2d):
    """Pools with windows of one size, as exported networks do."""

    def __call__(self, x: jax.Array) -> jax.Array:
        rows, columns = (max(n // self.output_size, 1) for n in x.shape[1:3])
        x = x[:, : rows * self.output_size, : columns * self.output_size]
        return layers.AdaptiveAvgPool2d(self.output_size, rngs=nnx.Rngs(0))(x)


# Where -> what is done to it in the port.
FAULTS = {"head.cff_24.resize": Halves, "ppm.pools.1": Even}


@pytest.mark.parametrize("where", FAULTS)
def test_fault_is_named(where: str) -> None:
    """Catches a ladder that is blind to a fault only this network can have."""
    p = small()
    layer = p.port
    for part in where.split("."):
        layer = getattr(layer, part)
    layer.__class__ = FAULTS[where]
    fault = climb(p, ("L1",)).fault()  # causes are not of this test
    assert fault is not None
    assert fault.layer == where, fault.sentence()


@pytest.mark.long
@pytest.mark.parametrize("model", ["icnet", "icnet-resnet101"])
def test_published(model: str) -> None:
    """Catches a fault that only the whole backbone shows."""
    config = MODELS[model]
    check(port(model, config, config.check_size)).assert_faithful()
