"""Checks in float16: numbers that are too large for it, and ties that its rounding makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch import nn

from parity import Port, check
from parity.capture.records import ForwardError
from parity.ladder import recording, tolerances
from parity.testing import ladder

ROWS = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
LINEAR = [(r"(.*)\.weight", r"\1.kernel", (1, 0)), (r"(.*)\.bias", r"\1.bias", None)]
LARGE = 2e4


class Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.act = nn.Linear(6, 6), nn.LeakyReLU(0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.a(x))


class Grows(nn.Module):
    """The layers of its stem are fed numbers that are too large for float16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stem(x * LARGE)


class Leaky(nnx.Module):
    def __init__(self, slope: float) -> None:
        self.slope = slope

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.leaky_relu(x, self.slope)


class StemPort(nnx.Module):
    def __init__(self, slope: float) -> None:
        self.a, self.act = nnx.Linear(6, 6, rngs=nnx.Rngs(0)), Leaky(slope)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.act(self.a(x))


class GrowsPort(nnx.Module):
    def __init__(self, slope: float = 0.01, raises: bool = False) -> None:
        self.stem, self.raises = StemPort(slope), raises

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.stem(x * LARGE)
        if self.raises:
            raise ValueError("nothing more")
        return y


def grows(**fields: Any) -> Port:
    torch.manual_seed(0)
    return Port(Grows(), GrowsPort(**fields), inputs=ROWS * np.float32(10), weights=LINEAR)


def test_what_is_too_large_stays_as_it_is() -> None:
    """Catches infinities, which no layer tells apart, and numbers beside them left unrounded."""
    given = np.array([1e5, -7e4, 65504.0, 1 / 3, np.inf])
    rounded = tolerances.round_to(given, "float16")
    assert rounded.tolist() == [1e5, -7e4, 65504.0, float(np.float16(1 / 3)), np.inf]
    assert tolerances.overflows(given, "float16")
    assert not tolerances.overflows(given[2:], "float16")


@pytest.mark.parametrize("rung", ["L1", "L3"])
def test_the_test_of_the_layer_fails(rung: str) -> None:
    """Catches an overflow that fails another layer's test in the place of its own."""
    test = ladder(grows, (rung,), "float16")
    with pytest.raises(pytest.fail.Exception, match=r"gradient of kernel: the reference itself"):
        test(rung, "stem.a")
    if rung == "L1":  # on L3 the loss overflows, too, which is of no layer
        test(rung, "(network)")


def test_the_cause_of_a_fault_in_such_a_layer_is_named() -> None:
    """Catches experiments on infinities, to which no change of the reference makes a difference."""
    report = check(grows(slope=0.2), ("L0", "L1"), "float16")
    assert report.fault().layer == "stem.act"
    assert "slope 0.2 instead of 0.01" in str(report.causes[0])


def test_a_port_that_raises_is_not_passed_over() -> None:
    """Catches an error of the port's that is not told, since something else is wrong, too."""
    with pytest.raises(ForwardError, match="nothing more"):
        check(grows(raises=True), ("L0", "L1"), "float16")


class Steep(nn.Module):
    """Its gradients are too large for float16."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) * LARGE


class SteepPort(nnx.Module):
    def __init__(self) -> None:
        self.a = nnx.Linear(6, 6, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.a(x) * LARGE


def steep(rate: float) -> Port:
    torch.manual_seed(0)
    optimizers = (lambda module: torch.optim.SGD(module.parameters(), lr=1e-9), optax.sgd(rate))
    rows = ROWS * np.float32(100)
    return Port(Steep(), SteepPort(), inputs=rows, weights=LINEAR, optimizers=optimizers)


def test_an_optimizer_is_fed_gradients_that_are_too_large() -> None:
    """Catches an optimizer that is blamed for steps of infinite gradients, and a wrong one."""
    report = check(steep(1e-9), ("L4",), "float16")
    assert not report.failures()
    assert {c.kind for c in report.checks if c.layer == "a"} >= {"structure"}
    assert {str(o.quantity) for o in report.missing()} >= {"step 1 of kernel"}
    wrong = check(steep(2e-9), ("L4",), "float16")
    assert {c.kind for c in wrong.failures()} == {"structure"}


def test_inputs_that_are_too_large(recwarn: pytest.WarningsRecorder) -> None:
    """Catches NumPy's warnings among what is printed, or an error of it."""
    port = Port(Stem(), StemPort(0.01), inputs=ROWS * np.float32(1e6), weights=LINEAR)
    assert check(port, ("L2",), "float16").missing()
    assert not recwarn.list


@pytest.mark.parametrize("slope", [0.01, 0.2])
def test_a_trace_is_judged_alike(tmp_path: Path, slope: float) -> None:
    """Catches layers recorded on infinities, on which a right port fails."""
    path = tmp_path / "ref.trace"
    recording.record(grows(), path, precision="float16")
    port = Port(path, GrowsPort(slope), weights=LINEAR)
    report = check(port, ("L1",), "float16")
    assert {c.layer for c in report.failures()} == (set() if slope == 0.01 else {"stem.act"})
    assert "stem.a" in {o.layer for o in report.missing()}


def test_a_trace_without_numerics_is_judged_by_structure_alone(tmp_path: Path) -> None:
    """Catches an overflow that counts where no numerics would have been compared."""
    path = tmp_path / "ref.trace"
    recording.record(grows(), path, precision="float16", parts=("alone",))
    report = check(Port(path, GrowsPort(), weights=LINEAR), ("L1",), "float16")
    assert report.ok, report.reason()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.leaky_relu(self.a(x), 0.01)


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Block(), Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x))


class BlockPort(nnx.Module):
    """Adds 1 to numbers of few bits, as float16's are: a tie that is broken otherwise."""

    def __init__(self, slope: float) -> None:
        self.a, self.slope = nnx.Linear(6, 6, rngs=nnx.Rngs(0)), slope

    def __call__(self, x: jax.Array) -> jax.Array:
        tie = jnp.round(x * 2**14) == x * 2**14
        return jax.nn.leaky_relu(self.a(x), self.slope) + jnp.where(tie, 1.0, 0.0)


class BlocksPort(nnx.Module):
    def __init__(self) -> None:
        self.one, self.two = BlockPort(0.01), BlockPort(0.2)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.two(self.one(x))


def test_the_cause_of_a_fault_in_a_block_is_named() -> None:
    """Catches experiments on a block that is fed rounded numbers, whose ties differ anyway."""
    report = check(Port(Blocks(), BlocksPort(), inputs=ROWS, weights=LINEAR), precision="float16")
    assert report.fault().layer == "two"
    assert "slope 0.2 instead of 0.01" in str(report.causes[0])
