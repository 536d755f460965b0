"""Ports whose layers run inside JAX's transformations, or in a narrower type than float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn

from parity import Port, check
from parity.capture.records import NETWORK

LINEAR = [("0.weight", "a.kernel", (1, 0)), ("0.bias", "a.bias")]
LINEAR += [("2.weight", "b.kernel", (1, 0)), ("2.bias", "b.bias")]


def reference() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))


class Ported(nnx.Module):
    """Two layers, of which the second is called by `around`."""

    def __init__(self, around: Callable[..., Any], factor: float = 1.0) -> None:
        self.a = nnx.Linear(6, 6, rngs=nnx.Rngs(0))
        self.b = nnx.Linear(6, 6, rngs=nnx.Rngs(1))
        self.around = around
        self.factor = factor

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.around(lambda y: self.b(y) * self.factor, jnp.tanh(self.a(x)))


def in_scan(f: Callable, y: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda carry, _: (carry, f(carry)), y, None, length=1)[1][0]


def in_cond(f: Callable, y: jax.Array) -> jax.Array:
    return jax.lax.cond(y.sum() > 1e9, lambda z: z, f, y)


def in_while(f: Callable, y: jax.Array) -> jax.Array:
    """Compute the layer in a loop, too; a loop of unknown length has no gradient."""
    count, _ = jax.lax.while_loop(
        lambda state: state[0] < 1,
        lambda state: (state[0] + 1, f(state[1])),
        (0, jax.lax.stop_gradient(y)),
    )
    return f(y) + 0.0 * count


@jax.custom_vjp
def twice(y: jax.Array) -> jax.Array:
    return 2 * y


twice.defvjp(lambda y: (2 * y, None), lambda _, c: (2 * c,))


TRANSFORMED: dict[str, Callable[..., jax.Array]] = {
    "jit": lambda f, y: jax.jit(f)(y),
    "checkpoint": lambda f, y: jax.checkpoint(f)(y),
    "vmap": lambda f, y: jax.vmap(f)(y),
    "scan": in_scan,
    "cond": in_cond,
    "while": in_while,
    "custom_jvp": lambda f, y: jax.nn.relu(f(y)) - jax.nn.relu(-f(y)),
    "custom_vjp": lambda f, y: 0.5 * twice(f(y)),
    "float32": lambda f, y: f(y.astype(jnp.float32)).astype(y.dtype),
    "np.float32": lambda f, y: f(y) * np.float32(0.1) * 10,
}


def transformed(name: str, factor: float = 1.0) -> Port:
    """Hold weights whose function does something between."""
    return Port(reference(), Ported(TRANSFORMED[name], factor), inputs=(4, 6), weights=LINEAR)


@pytest.mark.parametrize("name", TRANSFORMED)
def test_a_right_port_passes_inside_transformations(name: str) -> None:
    """Catches a port that works, and that the check calls wrong or cannot trace."""
    report = check(transformed(name))
    report.assert_faithful()
    compared = {c.layer for c in report.checks if c.rung == "L2"}
    assert {"a", "b", "(network)"} <= compared


@pytest.mark.parametrize("name", ["jit", "checkpoint", "scan", "cond", "float32"])
def test_a_fault_inside_transformations_is_found(name: str) -> None:
    """Catches a fault that hides in a transformation or behind a cast."""
    report = check(transformed(name, factor=1.0 + 1e-6), levels=("L2", "L3"))
    assert not report.ok
    assert {c.layer for c in report.failures() if c.rung == "L2"} == {"(network)"}


def test_calls_in_a_loop_are_seen_one_by_one() -> None:
    """Catches a layer in a scan that is compared as one call, or not at all."""

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(3):
                x = self.a(x)
            return x

    class Scanned(nnx.Module):
        def __init__(self) -> None:
            self.a = nnx.Linear(6, 6, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            return jax.lax.scan(lambda y, _: (self.a(y), None), x, None, length=3)[0]

    rules = [("a.weight", "a.kernel", (1, 0)), ("a.bias", "a.bias")]
    report = check(Port(Loop(), Scanned(), inputs=(4, 6), weights=rules))
    report.assert_faithful()
    assert {"a", "a#2", "a#3"} <= {c.layer for c in report.checks if c.rung == "L2"}


class Block(linen.Module):
    narrow: bool = False

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = jnp.float32 if self.narrow else None
        return jnp.tanh(linen.Dense(6, name="dense", dtype=dtype)(x))


class Remat(linen.Module):
    narrow: bool = False

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.Dense(6, name="b")(linen.remat(Block)(self.narrow, name="a")(x))


@pytest.mark.parametrize("narrow", [False, True])
def test_linen_remat(narrow: bool) -> None:
    """Catches Linen's lifted transformations, or its `dtype=`, taken for a fault of the port."""
    module = Remat(narrow)
    variables = module.init(jax.random.key(0), jnp.ones((4, 6)))
    rules = [(p.replace("a.", "a.dense.") if p[0] == "a" else p) for p in ("a.kernel", "a.bias")]
    weights = [
        ("0.weight", rules[0], (1, 0)),
        ("0.bias", rules[1]),
        ("2.weight", "b.kernel", (1, 0)),
        ("2.bias", "b.bias"),
    ]
    report = check(Port(reference(), module, params=variables, inputs=(4, 6), weights=weights))
    report.assert_faithful()
    assert "a.dense" in {c.layer for c in report.checks if c.rung == "L2"}
    inside = [n for n in report.notes if "computes in float32 inside" in n]
    assert bool(inside) == narrow


def test_a_layer_that_is_mapped_over_images_is_not_blamed() -> None:
    """Catches a layer that gives a part at each step, taken for one of another shape."""
    wrong = check(Port(reference(), Ported(jax.lax.map, 0.5), inputs=(4, 6), weights=LINEAR))
    fault = wrong.fault()
    assert fault is not None
    assert fault.layer == NETWORK, fault.sentence()
    check(Port(reference(), Ported(jax.lax.map), inputs=(4, 6), weights=LINEAR)).assert_faithful()


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("factor", [1.0, 1.0 + 1e-7])
def test_a_hard_sigmoid_in_float64(inplace: bool, factor: float) -> None:
    """Catches PyTorch's derivative, a sixth of float32 in float64, taken for a fault of the port.

    It fails, too, where a port that is off by as little passes.
    """

    class Gated(nnx.Module):
        def __init__(self) -> None:
            self.a, self.b = (nnx.Linear(6, 6, rngs=nnx.Rngs(i)) for i in range(2))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.b(jax.nn.hard_sigmoid(self.a(x)) * factor)

    torch.manual_seed(0)
    gated = nn.Sequential(nn.Linear(6, 6), nn.Hardsigmoid(inplace), nn.Linear(6, 6))
    assert check(Port(gated, Gated(), inputs=(4, 6), weights=LINEAR)).ok == (factor == 1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.r = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.r(x)[0]


def test_a_recurrent_layer_passes() -> None:
    """Catches a carry that starts in float32 and stops the whole check in float64."""

    class RNN(nnx.Module):
        def __init__(self) -> None:
            self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(0)))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.rnn(x)

    def weights(a: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            "rnn.cell.dense_i.kernel": a["r.weight_ih_l0"].T,
            "rnn.cell.dense_h.kernel": a["r.weight_hh_l0"].T,
            "rnn.cell.dense_h.bias": a["r.bias_ih_l0"] + a["r.bias_hh_l0"],
        }

    check(Port(Recurrent(), RNN(), inputs=(2, 5, 3), weights=weights)).assert_faithful()


def test_attributes_without_a_hash() -> None:
    """Catches a port refused because it keeps its configuration, which `nnx.jit` runs."""

    @dataclasses.dataclass
    class Config:
        widths: list[int] = dataclasses.field(default_factory=lambda: [6])

    class Configured(Ported):
        def __init__(self) -> None:
            super().__init__(lambda f, y: f(y))
            self.config = nnx.static(Config())

    check(Port(reference(), Configured(), inputs=(4, 6), weights=LINEAR)).assert_faithful()


@pytest.mark.parametrize("extra", ["counter", "key"])
def test_a_functions_integers_and_random_keys(extra: str) -> None:
    """Catches what is no floating-point number differentiated with the parameters."""
    value = jnp.zeros((), jnp.int32) if extra == "counter" else jax.random.key(0)
    given = np.int32(0) if extra == "counter" else np.uint32([0, 0])
    report = check(
        Port(
            nn.Sequential(nn.Linear(4, 4)),
            lambda p, x: x @ p["w"] + p["b"],
            params={"w": jnp.zeros((4, 4)), "b": jnp.zeros(4), extra: value},
            inputs=(2, 4),
            weights=lambda a: {"w": a["0.weight"].T, "b": a["0.bias"], extra: given},
        )
    )
    report.assert_faithful()


class Narrow(nn.Module):
    """Casts to float32 inside, as Llama's norms and softmax do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x).float() * torch.tensor(0.1)
        return torch.softmax(y, -1, dtype=torch.float32).to(x.dtype)


def test_a_reference_that_computes_in_float32_inside() -> None:
    """Catches a right port failed at 1e-8 because its reference rounds to float32."""

    class Right(nnx.Module):
        def __init__(self) -> None:
            self.a = nnx.Linear(6, 6, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            return jax.nn.softmax(self.a(x) * 0.1)

    rules = [("a.weight", "a.kernel", (1, 0)), ("a.bias", "a.bias")]
    report = check(Port(Narrow(), Right(), inputs=(4, 6), weights=rules))
    report.assert_faithful()
    assert any("the reference computes in float32 inside" in note for note in report.notes)


def test_constants_known_in_float32_alone() -> None:
    """Catches a right port failed for a table's rounding, or one passed whose table is wrong."""
    exact = np.cos(np.arange(6.0))

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a = nn.Linear(6, 6)
            self.register_buffer("table", torch.tensor(exact).float(), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) * self.table

    def ported(scale: float) -> Callable[..., jax.Array]:
        return lambda p, x: (x @ p["w"] + p["b"]) * (exact * scale)

    params = {"w": jnp.zeros((6, 6)), "b": jnp.zeros(6)}
    rules = [("a.weight", "w", (1, 0)), ("a.bias", "b")]

    def run(scale: float) -> Any:
        return check(Port(Table(), ported(scale), params=params, inputs=(4, 6), weights=rules))

    run(1.0).assert_faithful()
    assert not run(1 + 1e-5).ok
