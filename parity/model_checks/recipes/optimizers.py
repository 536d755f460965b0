"""Ports trained with a recipe's optimizer and learning rates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx

import jax_impl.optim
import torch_impl.optim
from jax_impl.state import name, published
from parity.ladder.port import Port
from parity.spec.models import MODELS, Config
from parity.spec.recipes import RECIPES
from parity.spec.training.optimizers import Optimizer, idle
from parity.spec.training.recipe import Stage

STEPS = 10  # of a trajectory: half before the rate falls, half after it

# For networks without a recipe, as Transformers are usually trained: warm-up, then half a cosine.
ADAMW = Optimizer("adam", lr=1e-3, weight_decay=0.1, decay="matrices", decoupled=True)
ADAMW_RATES = [
    ADAMW.lr * (step / 2 if step < 2 else (1 + math.cos(math.pi * (step - 2) / (STEPS - 2))) / 2)
    for step in range(1, STEPS + 1)
]


def stage_of(model: str) -> Stage | None:
    """Return the last stage that trains a network, in the first recipe with such a stage.

    Args:
        model: A key of `MODELS`. If no recipe trains it, the family's stage is returned.
    """
    family = MODELS[model].family
    stages = [stage for recipe in RECIPES.values() for stage in reversed(recipe.stages)]
    own = [stage for stage in stages if stage.model == model]
    return next(iter([*own, *(s for s in stages if s.config.family == family)]), None)


def rates(stage: Stage, steps: int = STEPS) -> list[float]:
    """Return the rate at so many steps: half of them in the first epoch, half after a fall."""

    def factor(epoch: int) -> float:
        return stage.schedule.factor(epoch, 0, 100)

    begin = stage.schedule.warmup
    fall = next(e for e in range(begin + 1, stage.epochs) if factor(e) < factor(begin))
    epochs = [begin] * (steps // 2) + [fall] * (steps - steps // 2)
    return [stage.optimizer.lr * factor(epoch) for epoch in epochs]


def training_of(model: str) -> tuple[Optimizer, list[float]]:
    """Return the optimizer and the learning rates with which a network is checked.

    Args:
        model: A key of `MODELS`. If no recipe trains its family: AdamW, whose rate rises and falls.
    """
    stage = stage_of(model)
    return (ADAMW, ADAMW_RATES) if stage is None else (stage.optimizer, rates(stage))


def trained(port: Port, config: Config, optimizer: Optimizer, rates: Sequence[float]) -> Port:
    """Add an optimizer and learning rates to a port of ours.

    Args:
        port: A port from `parity.model_checks.networks.port`.
        config: Its network's configuration.
        optimizer: A recipe's optimizer.
        rates: The learning rate of each step of a trajectory.
    """

    def reference(module: torch.nn.Module) -> torch.optim.Optimizer:
        built = torch_impl.optim.build(config, optimizer, dict(module.named_parameters()))
        return torch_impl.optim.hyperparameters(optimizer, built, rates[0], 1)

    return dataclasses.replace(
        port,
        optimizers=(reference, scheduled(config, optimizer, rates)),
        schedules=(
            lambda built: RateScheduler(optimizer, built, rates),
            lambda step: jnp.asarray(rates)[step],
            len(rates),
        ),
        steps=len(rates),
    )


class RateScheduler:
    """Gives PyTorch's optimizer its rate, as a scheduler."""

    def __init__(
        self, optimizer: Optimizer, built: torch.optim.Optimizer, rates: Sequence[float]
    ) -> None:
        self.optimizer, self.built, self.rates = optimizer, built, rates
        self.steps_made = 0

    def step(self) -> None:
        self.steps_made += 1
        rate = self.rates[min(self.steps_made, len(self.rates) - 1)]
        torch_impl.optim.hyperparameters(self.optimizer, self.built, rate, self.steps_made + 1)


class ScheduledState(NamedTuple):
    """State of `scheduled`: the steps made, and that of the optimizer."""

    made: jax.Array
    inner: Any


Build = Callable[..., optax.GradientTransformationExtraArgs]


def scheduled(
    config: Config,
    optimizer: Optimizer,
    rates: Sequence[float],
    build: Build = jax_impl.optim.build,
    spare: bool = True,
) -> optax.GradientTransformation:
    """Wrap the JAX side's optimizer as one over the network's state, with its learning rates.

    Args:
        config: The network's configuration.
        optimizer: The recipe's optimizer.
        rates: The learning rate of each step.
        build: A function like `jax_impl.optim.build`.
        spare: Whether unused parameters are left unchanged.
    """

    def used(tree: nnx.State) -> dict[str, jax.Array]:
        flat = {name(path): leaf[...] for path, leaf in nnx.to_flat_state(tree)}
        spared = idle(config, map(published, flat)) if spare else set()
        return {key: leaf for key, leaf in flat.items() if published(key) not in spared}

    def init(parameters: nnx.State) -> ScheduledState:
        inner = used(parameters)
        return ScheduledState(jnp.zeros((), jnp.int32), build(config, optimizer, inner).init(inner))

    def update(
        updates: nnx.State, state: ScheduledState, parameters: nnx.State
    ) -> tuple[nnx.State, ScheduledState]:
        inner = used(parameters)
        dtype = str(next(iter(inner.values())).dtype)
        steps = [
            jax_impl.optim.hyperparameters(optimizer, dtype, r, i) for i, r in enumerate(rates, 1)
        ]
        now = {key: jnp.asarray(np.stack([s[key] for s in steps]))[state.made] for key in steps[0]}
        made, kept = build(config, optimizer, inner).update(
            used(updates), state.inner, inner, **now
        )
        flat = [
            (path, leaf.replace(made.get(name(path), jnp.zeros_like(leaf[...]))))
            for path, leaf in nnx.to_flat_state(updates)
        ]
        return nnx.from_flat_state(flat), ScheduledState(state.made + 1, kept)

    return optax.GradientTransformation(init, update)
