"""The ladder on clean networks, and on networks with a fault injected in the port."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_impl import layers
from parity.diagnosis.check import check
from parity.ladder.climb import climb
from parity.ladder.port import Port
from parity.model_checks.networks import port
from parity.report.quantity import Kind
from parity.report.report import RUNGS, Report
from parity.spec.models import MODELS
from parity.spec.networks.enet import ENET_BLOCKS, ENetConfig

# The least that pools and unpools, so that a fault is found in seconds.
NAMES = ("downsample1_0", "regular1_1", "upsample5_0")
LEAST = ENetConfig(num_classes=5, blocks=tuple(b for b in ENET_BLOCKS if b.name in NAMES))


def least(size: tuple[int, int] = (20, 28), **changes: object) -> Port:
    return port("least", dataclasses.replace(LEAST, **changes), size, seed=3)


# ENet without the blocks that repeat another one's shapes. The whole of it is compared with what
# the published code computes, by test_golden.py, and climbed at this size by `parity demo`.
ONCE = (
    *("downsample1_0", "regular1_1", "downsample2_0", "regular2_1", "dilated2_2", "asymmetric2_3"),
    *("dilated2_4", "dilated2_6", "dilated2_8", "upsample4_0", "regular4_1", "upsample5_0"),
    "regular5_1",
)


@pytest.fixture(scope="module")
def enet() -> Report:
    blocks = tuple(b for b in ENET_BLOCKS if b.name in ONCE)
    return check(port("enet", dataclasses.replace(MODELS["enet"], blocks=blocks), (72, 136)))


def test_every_kind_of_block_is_there() -> None:
    """Catches a block of ENet's whose like is in no network that the ladder climbs here."""
    relu = ENetConfig().relu
    kinds = {b.name: (dataclasses.replace(b, name=""), relu(b)) for b in ENET_BLOCKS}
    assert {kinds[name] for name in ONCE} == set(kinds.values())


@pytest.mark.parametrize("rung", list(RUNGS)[:4])  # the others need an optimizer
def test_enet(enet: Report, rung: str) -> None:
    """Catches any layer, weight, output, statistic or gradient of the port that is not ENet's."""
    checks = [c for c in enet.checks if c.rung == rung]
    assert len(checks) >= {"L0": 297, "L1": 1293, "L2": 1067, "L3": 340}[rung]
    failed = [c.sentence() for c in checks if not c.ok]
    assert not failed, failed[0]


def test_every_layer_is_compared(enet: Report) -> None:
    """Catches a ladder that passes because it skips layers."""
    for rung, mode in (("L1", "output 0"), ("L2", "output 0 in train mode")):
        seen = {c.layer for c in enet.checks if c.rung == rung and str(c.quantity) == mode}
        assert {"initial_block.main_branch", "upsample5_0.main_unpool1", "transposed_conv"} <= seen
        assert len(seen) >= 157  # of which 151 have no parts


@pytest.mark.parametrize(("size", "relu"), [((25, 31), True), ((20, 28), False)])
def test_variants(size: tuple[int, int], relu: bool) -> None:
    """Catches sizes that do not halve evenly, and either choice of activations, done wrong."""
    check(least(size, encoder_relu=relu, decoder_relu=relu), ("L0", "L2", "L3")).assert_faithful()


class Biased(layers.BatchNorm2d):
    """Stores the biased variance, as Flax does."""

    def __call__(self, x: jnp.ndarray) -> jnp.ndarray:
        before = self.var[...]
        y = super().__call__(x)
        n = x.size // x.shape[-1]
        m = self.momentum
        batch = (self.var[...] - (1 - m) * before) / m * ((n - 1) / n)
        self.var[...] = (1 - m) * before + m * batch
        return y


class Subtracts(nnx.Module):
    """A block whose branches are subtracted."""

    def __init__(self, block: nnx.Module) -> None:
        for name in ("ext_conv1", "ext_conv2", "ext_conv3", "ext_regul", "out_activation"):
            setattr(self, name, getattr(block, name))

    def __call__(self, x: jnp.ndarray, mask: jnp.ndarray | None = None) -> jnp.ndarray:
        ext = self.ext_conv3(self.ext_conv2(self.ext_conv1(x)))
        return self.out_activation(x - self.ext_regul(ext, mask))


class Renamed(nnx.Module):
    """A block that calls one of its layers by another name."""

    def __init__(self, block: nnx.Module) -> None:
        for name in ("ext_conv1", "ext_conv2", "ext_conv3", "out_activation"):
            setattr(self, name, getattr(block, name))
        self.dropout = block.ext_regul

    def __call__(self, x: jnp.ndarray, mask: jnp.ndarray | None = None) -> jnp.ndarray:
        ext = self.ext_conv3(self.ext_conv2(self.ext_conv1(x)))
        return self.out_activation(x + self.dropout(ext, mask))


def swapped(module: nnx.Module) -> None:
    module.kernel.set_value(module.kernel[...].swapaxes(2, 3))


def set_class(module: nnx.Module, cls: type) -> None:
    module.__class__ = cls


def layer(network: nnx.Module, path: str) -> nnx.Module:
    for part in path.split("."):
        network = getattr(network, part)
    return network


# Where, the rung that must see it first, what is done to the port; test_faults.py has the others.
FAULTS: dict[str, tuple[str, str, Callable[[nnx.Module], object]]] = {
    "biased variance": ("regular1_1.ext_conv2.1", "L1", lambda m: set_class(m, Biased)),
    "dropout rate": ("upsample5_0.ext_regul", "L1", lambda m: setattr(m, "p", 0.2)),
    "kernel swapped": ("regular1_1.ext_conv2.0", "L0", swapped),
    "relu": ("regular1_1.out_activation", "L1", lambda m: set_class(m, layers.ReLU)),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named(name: str) -> None:
    """Catches a ladder that is blind to a fault, or blames the wrong layer."""
    where, rung, inject = FAULTS[name]
    p = least()
    inject(layer(p.port, where))
    report = climb(p, levels=("L0", "L1"))
    assert not report.ok
    fault = report.fault()
    assert (fault.rung, fault.layer.startswith(where)) == (rung, True), fault.sentence()
    assert {c.layer.startswith(where) for c in report.failures()} == {True}
    assert where in fault.sentence()


def test_fault_between_layers_is_named() -> None:
    """Catches a block that is wrong although each of its layers is right."""
    p = least()
    p.port.regular1_1 = Subtracts(p.port.regular1_1)
    report = climb(p, levels=("L1", "L2"))
    assert not report.ok
    assert report.fault().layer == "regular1_1", report.fault().sentence()
    assert report.fault().rung == "L1"


def test_wrong_loss_is_named() -> None:
    """Catches a loss that differs although the networks do not."""
    p = least()

    def doubled(*args: object) -> jnp.ndarray:
        return 2 * p.losses[1](*args)

    report = climb(dataclasses.replace(p, losses=(p.losses[0], doubled)), levels=("L3",))
    assert any(c.quantity.kind is Kind.LOSS for c in report.failures())


def test_lost_layer_is_named() -> None:
    """Catches a layer that the port does not have under that name."""
    p = least()
    p.port.regular1_1 = Renamed(p.port.regular1_1)
    report = climb(p, levels=("L1",))
    assert [c.layer for c in report.failures()] == ["regular1_1.ext_regul"]
    assert "missing in the port" in report.fault().sentence()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_fails(bad: float) -> None:
    """Catches a NaN or an infinity that both sides share, and that equality would let pass."""
    p = least()
    images, masks = p.inputs
    images = images.copy()
    images[0, 3, 3, 0] = bad
    report = check(dataclasses.replace(p, inputs=(images, masks)), levels=("L2",))
    assert not report.ok
    assert "not finite" in report.failures()[0].sentence()


def test_report(enet: Report, tmp_path: Path) -> None:
    """Catches a report that hides failures, is no JSON or no text, and a verdict over nothing."""
    assert f"PASSED {enet.compared} comparisons" in str(enet)
    enet.to_json(tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["ok"] is True
    assert len(found["checks"]) == len(enet.checks)
    assert not Report("nothing", "float32").ok
    with pytest.raises(AssertionError, match="nothing"):
        Report("nothing", "float32").assert_faithful()
    assert not Report("a rung without checks", "float32", [], {"L1": 0.1}).ok
    worse = dataclasses.replace(enet.checks[0], error=float("nan"))
    report = Report("one", "float32", [worse], {"L0": 0.1})
    assert not report.ok
    assert report.to_dict()["checks"][0]["error"] == "nan"
