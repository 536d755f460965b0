"""Changes of activations that experiments prove."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest
import torch
from torch import nn

from parity.diagnosis.catalogue import Fault
from tests.unit.diagnosis.experiments.proving import ROWS, Case, check_case

CASES: tuple[Case, ...] = (
    ("tanh GELU", nn.GELU(), lambda x: jax.nn.gelu(x, True), ROWS, "gelu-approximation", "tanh"),
    (
        "exact GELU",
        nn.GELU("tanh"),
        lambda x: jax.nn.gelu(x, False),
        ROWS,
        "gelu-approximation",
        "exact",
    ),
    ("quick GELU", nn.GELU(), lambda x: x * jax.nn.sigmoid(1.702 * x), ROWS, "activation", "quick"),
    (
        "slope",
        nn.LeakyReLU(0.01),
        lambda x: jax.nn.leaky_relu(x, 0.2),
        ROWS,
        "negative-slope",
        "slope 0.2 instead of 0.01",
    ),
    ("softplus", nn.Softplus(2), jax.nn.softplus, ROWS, "softplus-beta", "beta 1 instead of 2"),
    ("ReLU6", nn.ReLU(), lambda x: jnp.clip(x, 0, 6), 4 * ROWS, "activation", "ReLU6"),
    ("SiLU", nn.ReLU(), jax.nn.silu, ROWS, "activation", "SiLU"),
    (
        "softmax axis",
        nn.Softmax(-1),
        lambda x: jax.nn.softmax(x, 1),
        ROWS,
        Fault.SOFTMAX,
        "axis 1 instead of 2",
    ),
    (
        "GELU written out",
        lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3)))),
        lambda x: jax.nn.gelu(x, False),
        ROWS,
        "activation",
        "the exact GELU instead of the activation that is written out",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_cause_is_proved(case: Case) -> None:
    """Catches a change that is not tried, and another one that is called proved instead."""
    check_case(case)
