"""Changes of recurrent layers that experiments prove."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
import torch
from torch import nn

from tests.unit.diagnosis.experiments.proving import ROWS, Case, check_case

WIDTH = 5


class Rows(nn.Module):
    """The outputs of a recurrent layer alone."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = kind(8, WIDTH, batch_first=True).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x)[0]


def weights(kind: type[nn.RNNBase]) -> list[jax.Array]:
    return [p.detach().numpy() for p in Rows(kind).rnn.parameters()]


def over_time(step: Callable, x: jax.Array, count: int, reverse: bool = False) -> jax.Array:
    start = (jnp.zeros((len(x), WIDTH)),) * count
    outputs = jax.lax.scan(step, start, x.swapaxes(0, 1), reverse=reverse)[1]
    return outputs.swapaxes(0, 1)


def lstm(order: str = "ifgo", hidden: bool = True, forget: float = 0.0) -> Callable:
    def port(x: jax.Array) -> jax.Array:
        w_in, w, b_in, b = weights(nn.LSTM)

        def step(carry: tuple, given: jax.Array) -> tuple:
            h, c = carry
            a = given @ w_in.T + h @ w.T + b_in + (b if hidden else 0)
            gates = dict(zip(order, jnp.split(a, 4, -1), strict=True))
            i, f, o = (jax.nn.sigmoid(gates[k] + forget * (k == "f")) for k in "ifo")
            c = f * c + i * jnp.tanh(gates["g"])
            h = o * jnp.tanh(c)
            return (h, c), h

        return over_time(step, x, 2)

    return port


def gru(reverse: bool = False, before: bool = False, negated: bool = False) -> Callable:
    def port(x: jax.Array) -> jax.Array:
        w_in, w, b_in, b = weights(nn.GRU)

        def step(carry: tuple, given: jax.Array) -> tuple:
            (h,) = carry
            a, c = given @ w_in.T + b_in, h @ w.T + b
            r, z = (jax.nn.sigmoid((a + c)[:, i * WIDTH : (i + 1) * WIDTH]) for i in range(2))
            inner = (r * h) @ w[2 * WIDTH :].T + b[2 * WIDTH :] if before else r * c[:, 2 * WIDTH :]
            new = jnp.tanh(a[:, 2 * WIDTH :] + inner)
            h = z * new + (1 - z) * h if negated else (1 - z) * new + z * h
            return (h,), h

        return over_time(step, x, 1, reverse)

    return port


GATES = "recurrent-gates"
CASES: tuple[Case, ...] = (
    ("gates", Rows(nn.LSTM), lstm("ifog"), ROWS, GATES, "input, forget, output, cell"),
    ("one bias", Rows(nn.LSTM), lstm(hidden=False), ROWS, "left-out", "(bias_hh) left out"),
    ("forget", Rows(nn.LSTM), lstm(forget=1.0), ROWS, "recurrent-bias", "1 added to the forget"),
    ("reverse", Rows(nn.GRU), gru(True), ROWS, "recurrent-direction", "in reverse"),
    ("reset", Rows(nn.GRU), gru(before=True), ROWS, GATES, "reset gate before the product"),
    ("update", Rows(nn.GRU), gru(negated=True), ROWS, GATES, "update gate as 1 - z"),
)


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_cause_is_proved(case: Case) -> None:
    """Catches a recurrent layer that is one operation, of which nothing is tried."""
    check_case(case)
