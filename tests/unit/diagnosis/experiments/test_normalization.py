"""Changes of norms that experiments prove."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torch import nn

from tests.unit.diagnosis.experiments.proving import IMAGE, ROWS, Case, check_case, proved


def test_a_wide_limit_proves_no_other_epsilon() -> None:
    """Catches an epsilon proved beside the port's own, since a fault's limit is wide."""

    def port(x: jax.Array) -> jax.Array:
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-7)

    layer = nn.LayerNorm(8, eps=1e-2, elementwise_affine=False)
    found = proved(layer, port, 0.2 * ROWS, math.inf, 2.0)
    assert [proof.what for proof in found] == ["eps 1e-07 instead of 0.01"]


def test_a_difference_just_above_rounding_is_not_explained_by_a_near_change() -> None:
    """Catches an experiment that accepts numbers that are near but not the port's."""
    found = proved(
        nn.LayerNorm(8),
        lambda x: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1.01e-6),
        ROWS,
    )
    assert not found


def test_eps_of_zero_is_finite() -> None:
    """Catches an experiment that fails instead of being no proof."""
    zeros = np.zeros((2, 8))
    assert math.isfinite(float(np.abs(zeros).sum()))
    assert not proved(nn.LayerNorm(8), lambda x: x + 1.0, zeros)


CASES: tuple[Case, ...] = (
    (
        "layer norm's eps",
        nn.LayerNorm(8),
        lambda x: nnx.LayerNorm(8, epsilon=1e-6, param_dtype=float, rngs=nnx.Rngs(0))(x),
        ROWS,
        "norm-eps",
        "eps 1e-06 instead of 1e-05",
    ),
    (
        "eps outside the root of an RMS norm",
        nn.RMSNorm(8, eps=1e-2),
        lambda x: x / (jnp.sqrt((x * x).mean(-1, keepdims=True)) + 1e-2),
        ROWS,
        "eps-outside-root",
        "eps added to the root of the mean square",
    ),
    (
        "unbiased layer norm",
        nn.LayerNorm(8),
        lambda x: (
            (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True, ddof=1) + 1e-5)
        ),
        ROWS,
        "unbiased-variance",
        "unbiased",
    ),
    (
        "groups of a norm",
        nn.GroupNorm(2, 4),
        lambda x: nnx.GroupNorm(4, 4, epsilon=1e-5, param_dtype=float, rngs=nnx.Rngs(0))(x),
        IMAGE,
        "norm-groups",
        "4 groups instead of 2",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_cause_is_proved(case: Case) -> None:
    """Catches a change that is not tried, and another one that is called proved instead."""
    check_case(case)
