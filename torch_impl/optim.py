"""Optimizers of the PyTorch side. `jax_impl/optim.py` answers name by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from parity.spec.models import Config
from parity.spec.training.optimizers import Optimizer

Slots = dict[str, dict[str, torch.Tensor]]


def build(
    config: Config, optimizer: Optimizer, parameters: Mapping[str, torch.Tensor]
) -> torch.optim.Optimizer:
    """The optimizer of `torch.optim`; `hyperparameters` sets its rate at each step.

    Args:
        config: Which network.
        optimizer: What is asked for.
        parameters: Published key -> what is trained. One without a gradient is left alone.
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
        return torch.optim.Adam(groups.values(), betas=optimizer.betas, eps=optimizer.eps)
    momentum, nesterov = optimizer.momentum, optimizer.nesterov
    return torch.optim.SGD(groups.values(), momentum=momentum, nesterov=nesterov)


def hyperparameters(
    optimizer: Optimizer, state: torch.optim.Optimizer, rate: float, step: int
) -> torch.optim.Optimizer:
    """Set what changes from step to step.

    Args:
        optimizer: What was asked for.
        state: What `build` gave; it is changed.
        rate: The learning rate, before the groups' factors.
        step: The update that comes, counted from 1.
    """
    for group in state.param_groups:
        group["lr"] = rate * group["factor"]
        if "eps" in group:
            group["eps"] = optimizer.eps_at(step)
    return state


def named(state: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Published key -> what is trained."""
    return {
        name: parameter
        for group in state.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }


def slots(optimizer: Optimizer, state: torch.optim.Optimizer) -> Slots:
    """Slot -> published key -> what the optimizer keeps; of what never had a gradient, nothing."""
    kept = {key: state.state[p] for key, p in named(state).items() if state.state.get(p)}
    return {slot: {key: each[slot] for key, each in kept.items()} for slot in optimizer.slots}


def load(
    optimizer: Optimizer, state: torch.optim.Optimizer, found: Slots, step: int
) -> torch.optim.Optimizer:
    """The state that goes on from these slots, after so many steps.

    Args:
        optimizer: As `build` took it.
        state: What `build` gave; it is changed.
        found: What `slots` gave; a copy is kept.
        step: Steps made until now.
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
