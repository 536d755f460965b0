"""What no port could fail is counted as not compared."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch import nn

from parity import Port, check
from parity.ladder.noise import CHAOTIC, without_noise
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
    assert without_noise(checks, {"layer.w"}) == (checks, [])
    report = Report("port", "bfloat16", checks, seconds={"L2": 0.0})
    assert [(kind, compared) for _, kind, compared, *_ in report.rows()] == [
        ("numerics", 2),
        ("structure", 1),
    ]
    text = " ".join(str(report).split())
    assert "not counted: 1 comparisons of numerics, such as L2 layer: w after 1 step:" in text


COUNTER = Quantity(Kind.STATE, path="count", step=1)


@pytest.mark.parametrize(
    ("loss", "weight", "required"), [(2, 0.1, True), (0.1, 2, True), (0.1, 0.1, False)]
)
def test_a_trajectory_needs_its_loss_and_a_parameter(
    loss: float, weight: float, required: bool
) -> None:
    """Catches a step of noise that is green, such as one in which a counter alone is compared."""
    step = [
        made("L5", "structure", LOSS, loss),
        made("L5", "structure", STATE, weight),
        made("L5", "structure", Quantity(Kind.STATE, path="v", step=1), 1.0),
        made("L5", "structure", COUNTER, 1e-8),
    ]
    kept, omitted = without_noise(step, {"layer.w", "layer.v"})
    assert kept == [c for c in step if c.limit < 1]
    assert {o.counts for o in omitted} == {required}
    assert "layer.v" in {o.reference for o in omitted}


class Chaos(nn.Module):
    """Its training amplifies any difference, yet stays bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((4, 1), 0.3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(5 * x @ self.weight)


def trained(
    steps: int,
    rate: Callable[[int], float] = lambda step: 1.0,
    wrong: Callable[[int], float] | None = None,
    factor: float = 5.0,
) -> Port:
    """Gradient descent with a rate that is far too large at first."""

    def optimizer(net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(net.parameters(), lr=1.0)

    rates = jnp.array([(wrong or rate)(step) for step in range(steps)])
    return Port(
        reference=Chaos(),
        port=lambda p, x: jnp.sin(factor * x @ p["weight"]),
        params={"weight": jnp.zeros((4, 1))},
        weights=lambda a: {"weight": a["weight"]},
        inputs=np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32),
        optimizers=(optimizer, optax.sgd(lambda step: rates[step])),
        schedules=(lambda o: torch.optim.lr_scheduler.LambdaLR(o, rate), lambda s: rates[s], 1),
        steps=steps,
    )


def test_a_chaotic_trajectory_is_compared_until_it_is_noise() -> None:
    """Catches a right port whose last step is judged by a limit that admits anything."""
    report = check(trained(60), levels=("L5",))
    assert report.ok, report.reason()
    step = {c.quantity.step for c in report.checks if c.quantity.kind is Kind.STATE}
    assert len(step) == 1
    told = min(step)
    assert 5 < told < 60
    assert all(c.limit < 1 for c in report.checks)
    named = [o for o in report.left_out if o.quantity.step == told + 1]
    assert [o.reason for o in named] == [CHAOTIC.format(first=told + 1, last=60)]


def test_a_fault_in_a_chaotic_training_is_found() -> None:
    """Catches a fault that the noise of later steps hides."""
    report = check(trained(60, factor=5 * (1 + 1e-5)), levels=("L5",))
    assert not report.ok
    assert report.failures()


def test_a_fault_that_begins_late_is_found() -> None:
    """Catches steps that nobody judges, although their weights are exact."""
    slow = trained(20, rate=lambda step: 1e-3)
    assert check(slow, levels=("L5",)).ok
    late = trained(20, rate=lambda step: 1e-3, wrong=lambda step: 1e-3 if step < 15 else 2e-3)
    report = check(late, levels=("L5",))
    assert {c.quantity.step for c in report.failures()} == {16}
