"""Bounds with little inside, of recorded references, and of our own networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import pytest
from flax import nnx
from torch import nn

from parity import Port, check, check_model
from parity.ladder.recording import record
from parity.spec.errors import InputError
from parity.testing import ladder
from tests.unit.ladder.test_bounds import (
    ADAM,
    EVERY,
    port,
    seen,
)


def gelu_port() -> Port:
    """A layer with parameters, and one without."""
    layers = nn.Sequential(nn.Linear(6, 6), nn.GELU(approximate="tanh"))

    class Gelu(nnx.Module):
        def __call__(self, x: jax.Array) -> jax.Array:
            return nnx.gelu(x)

    class Two(nnx.Module):
        def __init__(self) -> None:
            self.one, self.two = nnx.Linear(6, 6, rngs=nnx.Rngs(0)), Gelu()

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.two(self.one(x))

    rules: list = [(r"0\.weight", "one.kernel", (1, 0)), (r"0\.bias", "one.bias")]
    return Port(layers, Two(), (3, 6), weights=rules, optimizers=ADAM)


def test_rungs_with_nothing_within_the_bounds() -> None:
    """Catches a rung without a parameter that fails for having compared nothing."""
    report = check(gelu_port(), layers="two")
    report.assert_faithful()
    assert "L4 left out: no parameter is within --layers two" in report.notes
    assert {"L4", "L5"} <= {o.rung for o in report.left_out if o.option}
    assert {c[2] for c in seen(report, "L1")} == {"two"}


def test_rungs_of_pytest_with_nothing_within_the_bounds() -> None:
    """Catches tests that fail where the command passes, since a rung has nothing to compare."""
    test = ladder(gelu_port, levels=("L1", "L4"), layers="two")
    test("L1", "(network)")
    with pytest.raises(pytest.skip.Exception, match="left out by --layers"):
        test("L4", "(network)")


def test_layers_that_nothing_answers() -> None:
    """Catches a check that passes and compares nothing of what it was asked for."""
    reference = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    rules: list = [(r"0\.weight", "w", (1, 0)), (r"0\.bias", "b")]

    def function(p: Any, x: jax.Array) -> jax.Array:
        return jax.numpy.tanh(x @ p["w"] + p["b"]) * 1

    params = {"w": jax.numpy.zeros((6, 6)), "b": jax.numpy.zeros(6)}
    made = Port(reference, function, (3, 6), params=params, weights=rules)
    with pytest.raises(InputError, match="--layers 1: nothing of the other side answers 1"):
        check(made, ("L2",), layers="1")
    assert check(made, ("L3",), layers="0").ok


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_tensors_that_were_computed_of_several(factor: float) -> None:
    """Catches the gradient of a scaled tensor left out, though its layer was asked for."""

    class Halved(nnx.Linear):
        def __call__(self, x: jax.Array, *_: Any, **__: Any) -> jax.Array:
            kernel = self.kernel[...]
            moved = factor * kernel - jax.lax.stop_gradient((factor - 1) * kernel)
            return x @ moved / 2 + self.bias[...]

    class Net(nnx.Module):
        def __init__(self) -> None:
            self.one, self.two = (kind(6, 6, rngs=nnx.Rngs(0)) for kind in (Halved, nnx.Linear))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.two(jax.numpy.tanh(self.one(x)))

    def doubled(a: Any) -> dict[str, Any]:
        found = {f"{n}.bias": a[f"{m}.bias"] for m, n in (("0", "one"), ("2", "two"))}
        return found | {"one.kernel": 2 * a["0.weight"].T, "two.kernel": a["2.weight"].T}

    reference = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    made = Port(reference, Net(), (3, 6), weights=doubled)
    assert check(made, ("L3",), layers="0").ok == (factor == 1.0)


def test_our_own_networks() -> None:
    """Catches a layer that is left out called missing where layers are paired by name alone."""
    report = check_model("vit", ("L1", "L2", "L3"), layers="blocks.1.mlp")
    report.assert_faithful()
    layers = {c[2] for c in seen(report, "L1")}
    assert layers
    assert all(name.startswith("blocks.1.mlp") for name in layers)
    assert not [o for o in report.left_out if not o.option]
    with pytest.raises(InputError, match="L5 alone is of enet's recipe"):
        check_model("enet", ("L5",), layers="*")


def test_a_recorded_reference(tmp_path: Path) -> None:
    """Catches a trace, which holds every layer, compared with what the port did not keep."""
    trace = tmp_path / "reference.trace"
    record(port(), trace)
    made = dataclasses.replace(port(), reference=trace, inputs=None)
    report = check(made, EVERY, layers="units.1.*")
    report.assert_faithful()
    assert {c[2] for c in seen(report, "L1")} == {"units.1.dense", "units.1.normalise"}
    sampled = check(made, EVERY, sample=1)
    sampled.assert_faithful()
    assert len([n for n in {c[2] for c in seen(sampled, "L1")} if n.endswith("dense")]) == 1
