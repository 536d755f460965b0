"""The steps that experiments write out, beside PyTorch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from parity.diagnosis.experiments.optimizer_hypotheses import hypotheses
from parity.diagnosis.experiments.optimizer_rules import Rule, altered

OPTIMIZERS: tuple[tuple[type[torch.optim.Optimizer], dict[str, Any]], ...] = (
    (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True}),
    (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5, "maximize": True}),
    (torch.optim.RMSprop, {"momentum": 0.9, "weight_decay": 0.1}),
    (torch.optim.RMSprop, {"momentum": 0.9, "centered": True}),
    (torch.optim.Adam, {"weight_decay": 0.1}),
    (torch.optim.Adam, {"weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    (torch.optim.AdamW, {"weight_decay": 0.1, "eps": 1e-3}),
)
IDS = [f"{kind.__name__} {settings}" for kind, settings in OPTIMIZERS]


def trained(make: Callable[[nn.Module], torch.optim.Optimizer]) -> torch.Tensor:
    """Return the weights after four steps whose gradients change sign; one has none at first."""
    module = nn.Module()
    module.a = nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
    module.b = nn.Parameter(torch.linspace(1, 2, 5, dtype=torch.float64))
    optimizer = make(module)
    for step in range(4):
        module.a.grad = torch.cos(torch.arange(5, dtype=torch.float64) * (step + 1))
        module.b.grad = module.a.grad * 0.01 if step > 1 else None
        optimizer.step()
    return torch.cat([module.a.detach(), module.b.detach()])


@pytest.mark.parametrize(("kind", "settings"), OPTIMIZERS, ids=IDS)
def test_steps_without_a_change_are_pytorchs(
    kind: Callable[..., torch.optim.Optimizer], settings: dict[str, Any]
) -> None:
    """Catches a rule that is written out wrong, of which every proof would be wrong, too."""

    def make(module: nn.Module) -> torch.optim.Optimizer:
        return kind(module.parameters(), 0.05, **settings)

    torch.testing.assert_close(trained(altered(make, Rule())), trained(make), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("kind", "settings"), OPTIMIZERS, ids=IDS)
def test_every_hypothesis_makes_other_steps(
    kind: Callable[..., torch.optim.Optimizer], settings: dict[str, Any]
) -> None:
    """Catches a change that nobody reads: it would be proved of whatever is right."""

    def make(module: nn.Module) -> torch.optim.Optimizer:
        return kind(module.parameters(), 0.05, **settings)

    found = list(hypotheses(make(nn.Linear(1, 1))))
    assert found
    for _, what, rule, _ in found:
        assert not torch.equal(trained(altered(make, rule)), trained(make)), what
