"""What is remembered between two checks of one process."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch import nn

from parity import Port, check
from parity.capture.jax_models import FunctionProgram
from parity.capture.jaxprs import has_foreign_rules
from parity.capture.remembered import Remembered
from parity.capture.traced import traced

EPS = 1e-5
SCALE = np.ones(3)
BACKWARD = 2.0


@jax.custom_vjp
def doubled(x: jax.Array) -> jax.Array:
    return 2 * x


doubled.defvjp(lambda x: (doubled(x), None), lambda _, g: (BACKWARD * g,))


def network(params: dict, x: jax.Array) -> jax.Array:
    """Reads a global constant."""
    return params["w"] * x + EPS


def scaled(params: dict, x: jax.Array) -> jax.Array:
    """Holds an array in a function that is compiled by itself."""
    return params["w"] * jax.jit(lambda x: x * SCALE)(x)


def noisy(params: dict, x: jax.Array) -> jax.Array:
    """Holds a random key."""
    return params["w"] * x + jax.random.normal(KEYS[0], (3,))


def ruled(params: dict, x: jax.Array) -> jax.Array:
    """Has a gradient rule of its own."""
    return doubled(x @ params["w"] + params["b"]) / 2


KEYS = [jax.random.key(0), jax.random.key(1)]


def trace(function: Any = network) -> object:
    params = {"w": jnp.ones(3)}
    return traced(FunctionProgram(function), {}, (params, {"w": None}, (jnp.ones(3),)), False)


def test_a_changed_constant_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a second check, after a correction or a slip, that judges the first program."""
    first = trace()
    assert trace() is first
    monkeypatch.setitem(globals(), "EPS", 1e-3)
    assert trace() is not first


@pytest.mark.parametrize(
    ("function", "name", "value"), [(scaled, "SCALE", 2 * SCALE), (noisy, "KEYS", KEYS[::-1])]
)
def test_a_changed_array_is_seen(
    function: Any, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches arrays of inner programs, and keys, that are not compared."""
    first = trace(function)
    assert trace(function) is first
    monkeypatch.setitem(globals(), name, value)
    assert trace(function) is not first


def test_a_changed_gradient_rule_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a second check that judges the gradients of the first program's rules."""

    def found() -> bool:
        port = Port(
            nn.Sequential(nn.Linear(3, 2)),
            ruled,
            (4, 3),
            params={"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)},
            weights={"w": ("0.weight", (1, 0)), "b": ("0.bias", None)},
        )
        return check(port, levels=("L3",)).ok

    assert found()
    monkeypatch.setitem(globals(), "BACKWARD", 2.1)
    assert not found()


def test_the_rules_of_libraries_are_known() -> None:
    """Catches networks of JAX's own functions that are compiled anew in each check."""

    def known(x: jax.Array) -> jax.Array:
        return jax.nn.relu(x) + jax.scipy.special.logsumexp(x)

    assert not has_foreign_rules(jax.make_jaxpr(known)(jnp.ones(3)).jaxpr)
    assert has_foreign_rules(jax.make_jaxpr(lambda x: jnp.sin(doubled(x)))(jnp.ones(3)).jaxpr)
    assert has_foreign_rules(jax.make_jaxpr(jax.jit(doubled))(jnp.ones(3)).jaxpr)


def test_the_first_is_forgotten() -> None:
    """Catches a memory that grows without end, or that forgets what was put into it last."""
    memory: Remembered[str, int] = Remembered(2)
    for i, key in enumerate("abac"):
        memory.put(key, i)
    assert (memory.get("a"), memory.get("b"), memory.get("c")) == (2, None, 3)
