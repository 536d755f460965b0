"""The initialiser of a sample is named where only one that is known fits, and else none."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np
import pytest

from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments import initial_weights
from parity.diagnosis.experiments.engine import Proof
from parity.ladder.evidence import Draws
from parity.ladder.laws import Law

SHAPES = ((32, 16, 3, 3), (16, 32, 3, 3))  # OIHW
SPATIAL = (2, 3)


def named(draw: Callable[[int, tuple[int, ...]], np.ndarray], law: str = "U(-1, 1)") -> list[Proof]:
    samples = tuple((s, np.asarray(draw(i, s), np.float32)) for i, s in enumerate(SHAPES))
    return initial_weights.proofs(Draws("conv", SHAPES[0], samples[0][1], law, samples))


def jax_draws(name: str) -> Callable[[int, tuple[int, ...]], np.ndarray]:
    make = getattr(jax.nn.initializers, name)(in_axis=1, out_axis=0)
    return lambda i, shape: np.asarray(make(jax.random.key(i), shape))


@pytest.mark.parametrize(
    ("initialiser", "words"),
    [
        ("lecun_normal", "LeCun's: variance 1 / fan_in"),
        ("lecun_uniform", "LeCun's: variance 1 / fan_in"),
        ("glorot_normal", "Glorot's: variance 1 / fan_avg"),
        ("glorot_uniform", "Glorot's: variance 1 / fan_avg"),
        ("he_normal", "He's: variance 2 / fan_in"),
        ("he_uniform", "He's: variance 2 / fan_in"),
    ],
)
def test_jax_initialisers_are_named(initialiser: str, words: str) -> None:
    """Catches a law, fan or truncation that is not the one with which JAX draws."""
    (proof,) = named(jax_draws(initialiser))
    assert proof.fault == Fault.INITIAL_WEIGHTS
    assert words in str(proof)
    assert ("cut at two" in str(proof)) == initialiser.endswith("normal")


def test_fan_out_is_told_from_fan_in() -> None:
    """Catches fans that are exchanged."""

    def drawn(i: int, shape: tuple[int, ...]) -> np.ndarray:
        bound = 1 / math.sqrt(shape[0] * 9)
        return np.random.default_rng(i).uniform(-bound, bound, shape)

    (proof,) = named(drawn)
    assert "PyTorch's default with fan_out for fan_in" in str(proof)


@pytest.mark.parametrize("factor", [0.5, 0.97, 1.02, 1.3])
def test_an_unknown_scale_is_not_named(factor: float) -> None:
    """Catches an initialiser that is called proved though the scale is another one."""
    made = jax_draws("he_uniform")
    assert not named(lambda i, shape: factor * made(i, shape))


def test_other_shapes_of_laws_are_not_named() -> None:
    """Catches a law that is judged by its variance alone."""

    def two_values(i: int, shape: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng(i).choice([-1, 1], shape) / math.sqrt(shape[1] * 9)

    def laplace(i: int, shape: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng(i).laplace(0, math.sqrt(0.5 / (shape[1] * 9)), shape)

    assert not named(two_values)
    assert not named(laplace)


def test_too_few_values_are_not_named() -> None:
    """Catches a proof by a sample that cannot tell two laws apart."""
    shape = (8, 4, 3, 3)
    values = jax_draws("lecun_normal")(0, shape)
    assert not initial_weights.proofs(Draws("conv", shape, values, "U(-1, 1)", ((shape, values),)))


def test_a_sound_sample_proves_nothing() -> None:
    """Catches a law that is "proved" where it is the one that should be."""
    bounds = [1 / math.sqrt(shape[1] * 9) for shape in SHAPES]
    sound = str(Law("uniform", bounds[0]))

    def drawn(i: int, shape: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng(i).uniform(-bounds[i], bounds[i], shape)

    assert not named(drawn, law=sound)
    assert named(drawn, law="N(0, 1)")


def test_only_weights_are_named() -> None:
    """Catches slopes or biases that are taken for weights."""
    values = np.full(4, 0.01, np.float32)
    draws = Draws("slope", (4,), values, "0.25", (((4,), values),))
    assert not initial_weights.proofs(draws)
    assert not initial_weights.proofs(dataclasses.replace(draws, kind="bias", samples=()))
