"""What no port could fail is counted as not compared."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch import nn

from parity import Port, check
from parity.ladder.noise import without_noise
from parity.report.quantity import Kind, Quantity
from parity.report.report import Check, Report

LOSS = Quantity(Kind.LOSS, step=1)
STATE = Quantity(Kind.STATE, path="w", step=1)


def made(rung: str, kind: str, quantity: Quantity, limit: float, error: float = 0.0) -> Check:
    return Check(rung, kind, "layer", "layer", quantity, error, limit)


def test_numerics_that_admit_anything_are_not_counted() -> None:
    """Catches a limit above 1 that counts as a comparison, and a true failure that is dropped."""
    checks = [
        made("L2", "structure", STATE, 2.0),  # such a limit is not of noise
        made("L2", "numerics", STATE, 0.9),
        made("L2", "numerics", STATE, 1.5, error=1.6),
        made("L2", "numerics", STATE, 1.0),
    ]
    assert [c.can_fail for c in checks] == [True, True, True, False]
    assert without_noise(checks) == (checks, [])
    report = Report("port", "bfloat16", checks, seconds={"L2": 0.0})
    assert [(kind, compared) for _, kind, compared, *_ in report.rows()] == [
        ("numerics", 2),
        ("structure", 1),
    ]
    text = " ".join(str(report).split())
    assert "not counted: 1 comparisons of numerics, such as L2 layer: w after 1 step: in" in text


@pytest.mark.parametrize(("loss", "state", "required"), [(2, 0.1, True), (0.1, 2, True)])
def test_a_trajectory_needs_its_loss_and_a_parameter(
    loss: float, state: float, required: bool
) -> None:
    """Catches a trajectory of noise that is green."""
    checks = [made("L5", "structure", LOSS, loss), made("L5", "structure", STATE, state)]
    kept, omitted = without_noise(checks)
    assert len(kept) == 1
    assert [o.counts for o in omitted] == [required]
    more = made("L5", "structure", LOSS, 1e-8), made("L5", "structure", STATE, 1e-8)
    assert not any(o.counts for o in without_noise([*checks, *more])[1])


class Chaos(nn.Module):
    """Its training amplifies any difference, yet stays bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((4, 1), 0.3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(5 * x @ self.weight)


def trained(steps: int, rate: float = 1.0, factor: float = 5.0) -> Port:
    """Gradient descent with a rate that is far too large."""
    return Port(
        reference=Chaos(),
        port=lambda p, x: jnp.sin(factor * x @ p["weight"]),
        params={"weight": jnp.zeros((4, 1))},
        weights=lambda a: {"weight": a["weight"]},
        inputs=np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32),
        optimizers=(lambda net: torch.optim.SGD(net.parameters(), lr=rate), optax.sgd(rate)),
        steps=steps,
    )


def test_a_chaotic_trajectory_is_compared_until_it_is_noise() -> None:
    """Catches a right port whose last step is judged by a limit that admits anything."""
    report = check(trained(60), levels=("L5",))
    assert report.ok, report.reason()
    step = {c.quantity.step for c in report.checks if c.quantity.kind is Kind.STATE}
    assert len(step) == 1
    assert 5 < min(step) < 60
    assert all(c.limit < 1 for c in report.checks)
    assert [o.quantity.step for o in report.left_out if o.quantity.kind is Kind.LOSS] == [
        min(step) + 1
    ]


def test_a_fault_in_a_chaotic_training_is_found() -> None:
    """Catches a fault that the noise of later steps hides."""
    report = check(trained(60, factor=5 * (1 + 1e-5)), levels=("L5",))
    assert not report.ok
    assert report.failures()
