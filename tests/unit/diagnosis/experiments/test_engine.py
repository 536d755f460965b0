"""Experiments prove the cause, from numbers that JAX or NumPy made, and nothing else."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from torch import nn
from torch.nn import functional

from parity.diagnosis.experiments import engine
from parity.diagnosis.experiments.change import RARE
from tests.unit.diagnosis.experiments.proving import IMAGE, ROWS, proved
from tests.unit.diagnosis.experiments.test_convolution import CONV, convolved, kernel


@pytest.mark.parametrize("approximate", [True, False])
def test_of_neighbours_the_nearest_is_proved(approximate: bool) -> None:
    """Catches another function proved, where only float32 says what the constants are."""
    found = proved(
        functional.relu, lambda x: jax.nn.gelu(x, approximate=approximate), ROWS, math.inf, 2.0
    )
    assert found
    whats = {proof.what for proof in found}
    assert all(("tanh" in what) == approximate and "GELU" in what.upper() for what in whats), whats


def test_no_known_cause_is_none() -> None:
    """Catches a cause that is called proved though the numbers do not come out."""
    assert not proved(nn.LayerNorm(8), lambda x: jnp.sin(x) + x, ROWS)
    # Two faults at once, neither of which explains everything.
    made = nn.Sequential(nn.LayerNorm(8), nn.GELU())

    def both(x: jax.Array) -> jax.Array:
        norm = nnx.LayerNorm(8, epsilon=1e-3, param_dtype=float, rngs=nnx.Rngs(0))
        return jax.nn.gelu(norm(x), True)

    assert not proved(made, both, ROWS)


def test_nothing_is_proved_of_a_right_pair() -> None:
    """Catches changes that change nothing, called the cause of rounding."""
    assert not proved(nn.GELU(), lambda x: jax.nn.gelu(x, False), ROWS)
    assert not proved(CONV, lambda x: convolved(x, kernel(CONV), CONV), IMAGE)


def test_of_two_places_that_are_written_alike_one_is_named() -> None:
    """Catches no cause at all where two calls on one line, of one shape, are turned alike."""
    alike = [engine.Proof("values-turned", "turned", "tanh(input=tanh)", RARE) for _ in range(2)]
    assert len(engine._first_turned(engine.Proofs(alike))) == 1
