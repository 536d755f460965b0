"""Values whose axes or order a port changes on the way."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.unit.diagnosis.experiments.proving import ROWS, Case, check_case, proved

WEIGHT = torch.linspace(-1, 1, 64, dtype=torch.float64).reshape(8, 8).cos() * 3
SQUARE = np.random.default_rng(1).normal(size=(2, 8, 8))


def between(x: torch.Tensor) -> torch.Tensor:
    """Two products, and a softmax that sees the order of neither axis."""
    return torch.nn.functional.linear(torch.tanh((x @ WEIGHT).softmax(-1)), WEIGHT)


def port(x: jax.Array, turn: str = "") -> jax.Array:
    weight = WEIGHT.numpy()
    y = jnp.tanh(jax.nn.softmax(x @ weight, -1))
    turns = {
        "": y,
        "reverse": y[..., ::-1],
        "roll": jnp.roll(y, 1, 1),
        "back": jnp.roll(y, -1, -1),
        "groups": y.reshape(*y.shape[:2], 2, 4).swapaxes(-1, -2).reshape(y.shape),
        "half": y / 2,
        "negative": -y,
        "transpose": y.swapaxes(1, 2) if y.shape[1] == y.shape[2] else y,
    }
    return turns[turn] @ weight.T


CASES: tuple[Case, ...] = (
    ("reverse", between, lambda x: port(x, "reverse"), ROWS, "values-turned", "axis 2 reversed"),
    ("roll", between, lambda x: port(x, "roll"), ROWS, "values-turned", "axis 1 rolled by 1"),
    ("back", between, lambda x: port(x, "back"), ROWS, "values-turned", "axis 2 rolled by -1"),
    ("groups", between, lambda x: port(x, "groups"), ROWS, "values-turned", "2 as 2 groups"),
    ("half", between, lambda x: port(x, "half"), ROWS, "scale-factor", "its result times 0.5"),
    ("negative", between, lambda x: port(x, "negative"), ROWS, "scale-factor", "times -1"),
    (
        "pixels",
        between,
        lambda x: port(x / 255),
        ROWS,
        "scale-factor",
        "times 1/255",
    ),
    (
        "square",
        between,
        lambda x: port(x, "transpose"),
        SQUARE,
        "values-turned",
        "axes 1 and 2 swapped",
    ),
    (
        "input",
        lambda x: x @ WEIGHT + x + WEIGHT[:6],
        lambda x: x[:, ::-1] @ WEIGHT.numpy() + x[:, ::-1] + WEIGHT[:6].numpy(),
        ROWS,
        "values-turned",
        "input 0 with axis 1 reversed",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_cause_is_proved(case: Case) -> None:
    """Catches an order in which values come out between two operations, and nobody tries it."""
    check_case(case)


def test_it_is_said_once_and_after_what_is_simpler() -> None:
    """Catches a list of all operations that do not see the order, and heads split otherwise."""
    assert len(proved(between, lambda x: port(x, "roll"), ROWS)) == 1

    def heads(x: torch.Tensor) -> torch.Tensor:
        return (x @ WEIGHT).reshape(2, 6, 2, 4).softmax(-1)

    def otherwise(x: jax.Array) -> jax.Array:
        y = (x @ WEIGHT.numpy()).reshape(2, 6, 4, 2).swapaxes(-1, -2)
        return jax.nn.softmax(y, -1)

    assert [cause.fault for cause in proved(heads, otherwise, ROWS)] == ["heads-order"]


def test_a_value_that_is_rounded_on_its_way() -> None:
    """Catches rounding between two operations, of which neither rounds."""

    def rounded(bits: int) -> list[str]:
        def narrow(x: jax.Array) -> jax.Array:
            y = jnp.tanh(jax.nn.softmax(x @ WEIGHT.numpy(), -1))
            return jax.lax.reduce_precision(y, 8, bits) @ WEIGHT.numpy().T

        return [cause.fault + cause.what for cause in proved(between, narrow, ROWS)]

    (tf32,), (bfloat16,), other = (rounded(bits) for bits in (10, 7, 9))
    for found, name in ((tf32, "TF32"), (bfloat16, "bfloat16")):
        assert found.startswith("values-rounded")
        assert name in found
    assert not other
