"""Optimizers from `torch.optim`, with the same names as in `jax_impl/optim.py`."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from parity.spec.models import Config
from parity.spec.training.optimizers import Optimizer

Slots = dict[str, dict[str, torch.Tensor]]


def build(
    config: Config, optimizer: Optimizer, parameters: Mapping[str, torch.Tensor]
) -> torch.optim.Optimizer:
    """Build the optimizer of `torch.optim`; `hyperparameters` sets its rate at each step.

    Args:
        config: The network's configuration.
        optimizer: The recipe's optimizer.
        parameters: Published key -> trained parameter. One without a gradient is not changed.
    """
    decays = optimizer.decays(config)
    groups: dict[tuple[float, float], dict] = {}
    for key, parameter in parameters.items():
        alike = (optimizer.factor(key), decays[key])
        group = groups.setdefault(
            alike, {"params": [], "factor": alike[0], "weight_decay": alike[1]}
        )
        group["params"].append((key, parameter))
    if optimizer.kind == "adam":
        adam = torch.optim.AdamW if optimizer.decoupled else torch.optim.Adam
        return adam(groups.values(), betas=optimizer.betas, eps=optimizer.eps)
    momentum, nesterov = optimizer.momentum, optimizer.nesterov
    return torch.optim.SGD(groups.values(), momentum=momentum, nesterov=nesterov)


def hyperparameters(
    optimizer: Optimizer, state: torch.optim.Optimizer, rate: float, step: int
) -> torch.optim.Optimizer:
    """Set the learning rate and epsilon of the coming step.

    Args:
        optimizer: The recipe's optimizer.
        state: The optimizer from `build`; changed in place.
        rate: The learning rate, before the groups' factors.
        step: Number of the coming update, counted from 1.
    """
    for group in state.param_groups:
        group["lr"] = rate * group["factor"]
        if "eps" in group:
            group["eps"] = optimizer.eps_at(step)
    return state


def named(state: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return published key -> trained parameter."""
    return {
        name: parameter
        for group in state.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }


def slots(optimizer: Optimizer, state: torch.optim.Optimizer) -> Slots:
    """Return slot -> published key -> array; parameters that never had a gradient are absent."""
    kept = {key: state.state[p] for key, p in named(state).items() if state.state.get(p)}
    return {slot: {key: each[slot] for key, each in kept.items()} for slot in optimizer.slots}


def load(
    optimizer: Optimizer, state: torch.optim.Optimizer, found: Slots, step: int
) -> torch.optim.Optimizer:
    """Put the arrays that `slots` returned back into an optimizer.

    Args:
        optimizer: The recipe's optimizer.
        state: The optimizer from `build`; changed in place.
        found: The result of `slots`; copied.
        step: Number of steps made so far.
    """
    state.state.clear()
    parameters = named(state)
    for slot, arrays in found.items():
        for key, array in arrays.items():
            like = parameters[key]
            state.state[like][slot] = torch.empty_like(like, requires_grad=False).copy_(array)
            if optimizer.kind == "adam":
                state.state[like]["step"] = torch.tensor(float(step), dtype=torch.float32)
    return state
