"""What is remembered between two checks of one process."""

import jax
import jax.numpy as jnp
import pytest

from parity.capture.jax_models import FunctionProgram
from parity.capture.remembered import Remembered
from parity.capture.traced import traced

EPS = 1e-5


def network(params: dict, x: jax.Array) -> jax.Array:
    """Reads a global constant."""
    return params["w"] * x + EPS


def trace() -> object:
    params = {"w": jnp.ones(3)}
    return traced(FunctionProgram(network), {}, (params, {"w": None}, (jnp.ones(3),)), False)


def test_a_changed_constant_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a second check, after a correction or a slip, that judges the first program."""
    first = trace()
    assert trace() is first
    monkeypatch.setitem(globals(), "EPS", 1e-3)
    assert trace() is not first


def test_the_first_is_forgotten() -> None:
    """Catches a memory that grows without end, or that forgets what was put into it last."""
    memory: Remembered[str, int] = Remembered(2)
    for i, key in enumerate("abac"):
        memory.put(key, i)
    assert (memory.get("a"), memory.get("b"), memory.get("c")) == (2, None, 3)
