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
    """The optimizer of `torch.optim`; it is told its rate at each step, by `tell`.

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


def tell(
    optimizer: Optimizer, built: torch.optim.Optimizer, rate: float, step: int
) -> torch.optim.Optimizer:
    """Say what changes from step to step.

    Args:
        optimizer: What was asked for.
        built: What `build` gave; it is changed.
        rate: The learning rate, before the groups' factors.
        step: The update that comes, counted from 1.
    """
    for group in built.param_groups:
        group["lr"] = rate * group["factor"]
        if "eps" in group:
            group["eps"] = optimizer.eps_at(step)
    return built


def slots(
    optimizer: Optimizer,
    built: torch.optim.Optimizer,
    parameters: Mapping[str, torch.Tensor],
) -> Slots:
    """Slot -> published key -> what the optimizer keeps; of what never had a gradient, nothing."""
    return {
        slot: {key: built.state[p][slot] for key, p in parameters.items() if built.state.get(p)}
        for slot in optimizer.slots
    }


def load(
    optimizer: Optimizer,
    built: torch.optim.Optimizer,
    parameters: Mapping[str, torch.Tensor],
    found: Slots,
    step: int,
) -> torch.optim.Optimizer:
    """The inverse of `slots`.

    Args:
        optimizer: What was asked for.
        built: What `build` gave; it is changed.
        parameters: As `build` took them.
        found: What `slots` gave; a copy is kept.
        step: Updates that were made.
    """
    built.state.clear()
    for slot, arrays in found.items():
        for key, array in arrays.items():
            like = parameters[key]
            built.state[like][slot] = torch.empty_like(like, requires_grad=False).copy_(array)
            if optimizer.kind == "adam":
                built.state[like]["step"] = torch.tensor(float(step), dtype=torch.float32)
    return built
