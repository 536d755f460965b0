"""The ladder on ERFNet and its variants, and a fault that only a network with biases can have."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jax_impl import layers
from parity.diagnosis.check import check
from parity.ladder.climb import climb
from parity.ladder.port import Port
from parity.model_checks.networks import port
from parity.report.report import RUNGS, Report
from parity.spec.models import MODELS
from parity.spec.networks.erfnet import Block

# One block of each kind.
ENCODER = (Block("down", 3, 16), Block("down", 16, 24), Block("nb1d", 24, 24, dilation=2))
DECODER = (Block("up", 24, 16),)


def small(model: str) -> Port:
    config = dataclasses.replace(MODELS[model], num_classes=5, encoder=ENCODER, decoder=DECODER)
    return port(model, config, (20, 28), seed=3)


def once(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """Leave out blocks that repeat another one."""
    return tuple(dict.fromkeys(blocks))


@pytest.fixture(scope="module")
def erfnet() -> Report:
    """The whole of it is compared with the published one by test_golden.py, and by `-m long`."""
    config = MODELS["erfnet"]
    made = dataclasses.replace(config, encoder=once(config.encoder), decoder=once(config.decoder))
    return check(port("erfnet", made, config.check_size, batch=1))


@pytest.mark.parametrize("rung", list(RUNGS)[:4])  # the others need an optimizer
def test_erfnet(erfnet: Report, rung: str) -> None:
    """Catches any layer, weight, output, statistic or gradient of the port that is not ERFNet's."""
    checks = [c for c in erfnet.checks if c.rung == rung]
    assert len(checks) >= {"L0": 165, "L1": 600, "L2": 400, "L3": 220}[rung]
    failed = [c.sentence() for c in checks if not c.ok]
    assert not failed, failed[0]


def test_encoder_alone() -> None:
    """Catches a gradient for the decoder, which rests, and one lost in the encoder's classifier."""
    report = check(small("erfnet-encoder"), ("L0", "L3"))
    report.assert_faithful()
    assert any(c.layer == "encoder.output_conv" and c.rung == "L3" for c in report.checks)


@pytest.mark.parametrize("model", ["erfnet-mindspore", "erfnet-mindspore-encoder"])
def test_mindspore(model: str) -> None:
    """Catches masks of elements in the other layout, and a pixel's shift lost or the other way."""
    check(small(model), ("L0", "L2", "L3")).assert_faithful()


def test_imagenet() -> None:
    """Catches a head that pools otherwise, or whose numbers meet other weights."""
    encoder = (Block("down", 3, 8), Block("down", 8, 12), Block("nb1d", 12, 12, dilation=2))
    config = dataclasses.replace(MODELS["erfnet-imagenet"], num_classes=5, encoder=encoder)
    report = check(port("erfnet-imagenet", config, (112, 116), seed=3))
    report.assert_faithful()
    assert any(c.layer == "features.mean_pool" and c.rung == "L1" for c in report.checks)


class RowLost(layers.Conv2d):
    """Leaves one row of the map out of its bias's gradient."""

    def __call__(self, x: jax.Array) -> jax.Array:
        y = super().__call__(x)
        lost = jnp.arange(y.shape[1])[:, None, None] == 0
        change = self.bias[...] - jax.lax.stop_gradient(self.bias[...])  # 0
        return y - jnp.where(lost, change, 0)


def test_fault_in_a_gradient_that_is_zero_is_named() -> None:
    """Catches a rule for biases before a batch norm under which any gradient would pass."""
    p = small("erfnet-encoder")
    p.port.encoder.initial_block.conv.__class__ = RowLost
    failures = climb(p, levels=("L1",)).failures()
    fault = ("encoder.initial_block.conv", "gradient of bias")
    assert {(c.layer, str(c.quantity)) for c in failures} == {fault}
    assert {c.kind for c in failures} == {"structure", "numerics"}
