"""Changes of several operations, of residuals and of axes, that experiments prove."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
import torch
from flax import nnx
from torch import nn
from torch.nn import functional

from parity.diagnosis.catalogue import Fault
from tests.unit.diagnosis.experiments.proving import IMAGE, ROWS, Case, check_case


def normed(x: jax.Array) -> jax.Array:
    return nnx.LayerNorm(8, epsilon=1e-5, param_dtype=float, rngs=nnx.Rngs(0))(x)


def shortcut(x: torch.Tensor) -> torch.Tensor:
    return x + torch.sin(functional.layer_norm(x, (8,)))


class Shortcut(nn.Module):
    """A branch with a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.sin(self.norm(x))


def normed_shortcut(x: jax.Array) -> jax.Array:
    return normed(x) + jnp.sin(normed(x))


CASES: tuple[Case, ...] = (
    (
        "flattening",
        nn.Flatten(),
        lambda x: x.reshape(2, -1),
        IMAGE,
        "flatten-order",
        "(N, H, W, C)",
    ),
    ("ddof", lambda x: x.var(-1), lambda x: x.var(-1), ROWS, "ddof", "ddof 0"),
    (
        "gate and up",
        lambda x: functional.silu(x[..., :4]) * x[..., 4:],
        lambda x: x[..., :4] * jax.nn.silu(x[..., 4:]),
        ROWS,
        "gate-order",
        "`silu` on the second factor",
    ),
    (
        "shortcut",
        lambda x: functional.relu(x[..., :4] + x[..., 4:]),
        lambda x: x[..., :4] + jax.nn.relu(x[..., 4:]),
        ROWS,
        Fault.SHORTCUT_ORDER,
        "before the sum",
    ),
    (
        "post-norm",
        lambda x: x + torch.sin(functional.layer_norm(x, (8,))),
        lambda x: normed(x + jnp.sin(x)),
        ROWS,
        "norm-place",
        "after the sum (post-norm)",
    ),
    (
        "residual from the norm",
        lambda x: x + torch.sin(functional.layer_norm(x, (8,))),
        lambda x: normed(x) + jnp.sin(normed(x)),
        ROWS,
        "residual",
        "`layer_norm` in place of the first operand",
    ),
    (
        "shortcuts from behind the norms",
        nn.Sequential(Shortcut(), Shortcut()),
        lambda x: normed_shortcut(normed_shortcut(x)),
        ROWS,
        "residual",
        "from behind its norm, not from before it, at each of 2 places",
    ),
    (
        "branches in parallel",
        lambda x: shortcut(shortcut(x)),
        lambda x: x + 2 * jnp.sin(normed(x)),
        ROWS,
        "residual",
        "(branches in parallel)",
    ),
    (
        "activation before its norm",
        nn.Sequential(nn.LayerNorm(8), nn.ReLU()),
        lambda x: normed(jax.nn.relu(x)),
        ROWS,
        "order",
        "`relu` before `layer_norm`",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_cause_is_proved(case: Case) -> None:
    """Catches a change that is not tried, and another one that is called proved instead."""
    check_case(case)
