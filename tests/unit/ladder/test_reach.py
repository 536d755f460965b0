"""Bounds inside the reference that drawn inputs must reach."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn
from torch.nn import functional

from parity import Port, check
from parity.ladder.runs import Runs

Function = Callable[[Any], Any]


class Reference(nn.Module):
    """A layer, a function, and a layer."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 3)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.b(self.function(self.a(x)))
        return y


def port(theirs: Function, ours: Function, inputs: Any = (4, 5)) -> Port:
    """A port whose layers are right."""
    torch.manual_seed(0)

    def run(p: dict, x: jax.Array) -> jax.Array:
        x = ours(x @ p["a"]["kernel"] + p["a"]["bias"])
        return x @ p["b"]["kernel"] + p["b"]["bias"]

    sizes = {"a": (5, 6), "b": (6, 3)}
    params = {n: {"kernel": np.zeros(s), "bias": np.zeros(s[1])} for n, s in sizes.items()}
    rules = [(r"(.*)\.weight", r"\1.kernel", (1, 0)), (r"(.*\.bias)", r"\1")]
    return Port(Reference(theirs), run, inputs, weights=rules, params=params)


RIGHT: dict[str, tuple[Function, Function]] = {
    "relu6": (functional.relu6, lambda x: jnp.clip(x, 0, 6)),
    "hardtanh": (lambda x: functional.hardtanh(x, -2, 3), lambda x: jnp.clip(x, -2, 3)),
    "hardswish": (functional.hardswish, jax.nn.hard_swish),
    "clamp": (lambda x: x.clamp(max=4.0), lambda x: jnp.minimum(x, 4)),
}
WRONG: dict[str, Function] = {
    "relu6": jax.nn.relu,
    "hardtanh": lambda x: jnp.maximum(x, -2),
    "hardswish": lambda x: x * (x + 3) / 6,
    "clamp": lambda x: x,
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_bound_that_drawn_inputs_do_not_reach_is_reached(name: str) -> None:
    """Catches a ReLU for a ReLU6 that passes, since no value of a usual input reaches 6."""
    theirs, ours = RIGHT[name]
    report = check(port(theirs, ours), ("L2",))
    assert report.ok
    assert any("times wider" in note for note in report.notes)
    assert not any("both sides" in line for line in report.unseen)
    assert not check(port(theirs, WRONG[name]), ("L2",)).ok


OWN: dict[str, tuple[Function, Function, Function]] = {  # of the reference; right; wrong
    "relu6": (torch.relu, jax.nn.relu, jax.nn.relu6),
    "clip": (lambda x: x, lambda x: x, lambda x: jnp.clip(x, max=9.0)),
    "clamp": (lambda x: x, lambda x: x, lambda x: jax.lax.clamp(-1e9, x, 7.0)),
    "another": (functional.relu6, jax.nn.relu6, lambda x: jnp.minimum(jax.nn.relu6(x), 5.9)),
    "lower": (lambda x: x, lambda x: x, lambda x: jnp.clip(x, min=-9.0)),
    "lower clamp": (lambda x: x, lambda x: x, lambda x: jax.lax.clamp(-7.0, x, 1e9)),
}


@pytest.mark.parametrize("name", OWN)
def test_a_bound_of_the_ports_own_is_reached(name: str) -> None:
    """Catches a ReLU6 for a ReLU that passes, since no value of a usual input reaches 6.

    So it does of a lower bound, as of a logarithm of a variance.
    """
    theirs, right, wrong = OWN[name]
    assert check(port(theirs, right), ("L2",)).ok
    assert not check(port(theirs, wrong), ("L2",)).ok


class Twice(nn.Module):
    """Two activations, the second of values that are farther apart."""

    def __init__(self, first: Function, second: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.b.weight.data *= 2
        self.functions = first, second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, function in zip((self.a, self.b), self.functions, strict=True):
            x = function(layer(x))  # both are called at this line
        y: torch.Tensor = self.c(x)
        return y


class PortedTwice(nnx.Module):
    def __init__(self, first: Function, second: Function) -> None:
        rngs = nnx.Rngs(0)
        self.a, self.b = nnx.Linear(5, 6, rngs=rngs), nnx.Linear(6, 6, rngs=rngs)
        self.c, self.functions = nnx.Linear(6, 3, rngs=rngs), (first, second)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.c(self.functions[1](self.b(self.functions[0](self.a(x)))))


RELU, RELU6 = (torch.relu, jax.nn.relu), (functional.relu6, jax.nn.relu6)


@pytest.mark.parametrize(
    ("first", "second", "wrong"),
    [
        (RELU6, RELU, (jax.nn.relu6, jax.nn.relu6)),
        (RELU6, RELU6, (jax.nn.relu6, jax.nn.relu)),
        (RELU6, RELU, (jax.nn.relu, jax.nn.relu6)),
    ],
    ids=["one more", "one less", "moved"],
)
def test_a_bound_at_one_of_two_places(
    first: tuple[Function, Function],
    second: tuple[Function, Function],
    wrong: tuple[Function, Function],
) -> None:
    """Catches a ReLU6 for a ReLU, or the other way round, where another ReLU6 is reached."""
    rules = [(r"(.*)\.weight", r"\1.kernel", (1, 0)), (r"(.*\.bias)", r"\1")]
    theirs = Twice(first[0], second[0])
    right = check(Port(theirs, PortedTwice(first[1], second[1]), (4, 5), rules), ("L2",))
    assert right.ok
    assert not any("both sides" in line for line in right.unseen)
    assert not check(Port(theirs, PortedTwice(*wrong), (4, 5), rules), ("L2",)).ok


def test_a_bound_of_the_ports_own_that_nothing_reaches_is_named() -> None:
    """Catches a bound that the port has alone, and that was not seen, without a word."""
    given = np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5)
    report = check(port(torch.relu, jax.nn.relu6, (given,)), ("L2",))
    (line,) = [line for line in report.unseen if "both sides" in line]
    assert line.startswith("no values lie on both sides of 6, where the port's min changes [")


def test_inputs_that_are_given_stay_as_they_are() -> None:
    """Catches a user's input that is changed, and a bound that it misses without a word."""
    given = np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5)
    with ThreadPoolExecutor(1) as pool:
        runs = Runs(port(functional.relu6, jax.nn.relu, (given,)), "float32", pool)
    np.testing.assert_array_equal(runs.inputs[False][0], given)
    (line,) = runs.reach.unseen()
    assert line.startswith("no values lie on both sides of 6, where relu6 changes [test_reach.py:")


def test_a_bound_that_nothing_reaches_changes_no_input() -> None:
    """Catches inputs that are made wider in vain, or where a network has no bounds."""
    for theirs in (lambda x: torch.sigmoid(x).clamp(max=2), torch.sigmoid):
        made = port(theirs, jax.nn.sigmoid)
        with ThreadPoolExecutor(1) as pool:
            runs = Runs(made, "float32", pool)
        np.testing.assert_array_equal(runs.inputs[False][0], made.arrays(False)[0])
        assert runs.reach.scale == 1
