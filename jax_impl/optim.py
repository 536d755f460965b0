"""Optimizers in optax, with the same names as in `torch_impl/optim.py`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_impl.state import published
from parity.spec.models import Config
from parity.spec.training.optimizers import Optimizer

Slots = dict[str, dict[str, jax.Array]]
OPTAX = {"exp_avg": "mu", "exp_avg_sq": "nu", "momentum_buffer": "trace"}


def build(
    config: Config, optimizer: Optimizer, parameters: Iterable[str]
) -> optax.GradientTransformationExtraArgs:
    """Build the optax optimizer; `update` takes the settings from `hyperparameters`.

    Args:
        config: The network's configuration.
        optimizer: The recipe's optimizer.
        parameters: Dotted paths of exactly the trained parameters. Others must be left out: with a
            gradient of 0 weight decay would still change them.
    """
    keys = {name: published(name) for name in parameters}
    decays = optimizer.decays(config)
    parts = []
    mask = {name: decays[key] > 0 for name, key in keys.items()}
    decay = optax.add_decayed_weights(optimizer.weight_decay, mask)
    if optimizer.weight_decay and not optimizer.decoupled:  # before all else
        parts.append(decay)
    if optimizer.kind == "adam":
        parts.append(scale_by_adam(*optimizer.betas))
        if optimizer.weight_decay and optimizer.decoupled:
            parts.append(decay)
    elif optimizer.momentum:
        parts.append(optax.trace(optimizer.momentum, optimizer.nesterov))
    factors = {name: optimizer.factor(key) for name, key in keys.items()}
    for factor in sorted(set(factors.values()) - {1.0}):
        mask = {name: f == factor for name, f in factors.items()}
        parts.append(optax.masked(optax.scale(factor), mask))
    return optax.chain(*parts, scale_by_rate())


def hyperparameters(
    optimizer: Optimizer, dtype: str, rate: float, step: int
) -> dict[str, np.generic]:
    """Return the settings that `update` of the optimizer needs at a step.

    Args:
        optimizer: The recipe's optimizer.
        dtype: The parameters' dtype.
        rate: The learning rate, before the groups' factors.
        step: Number of the coming update, counted from 1.
    """
    settings = {"rate": rate}
    if optimizer.kind == "adam":
        first, second = (1 - beta**step for beta in optimizer.betas)
        settings |= {"first": first, "second": second**0.5, "eps": optimizer.eps_at(step)}
    return {name: np.dtype(dtype).type(value) for name, value in settings.items()}


def slots(optimizer: Optimizer, state: optax.OptState) -> Slots:
    """Return the optimizer's arrays: PyTorch's name of the slot -> path -> array."""
    return {slot: optax.tree.get(state, OPTAX[slot]) for slot in optimizer.slots}


def load(optimizer: Optimizer, state: optax.OptState, found: Slots, step: int) -> optax.OptState:
    """Put the arrays that `slots` returned back into an optimizer state.

    Args:
        optimizer: The recipe's optimizer.
        state: A state made by `init` of the optimizer from `build`.
        found: The result of `slots`.
        step: Number of updates made so far.
    """
    made: dict[str, Any] = {OPTAX[slot]: arrays for slot, arrays in found.items()}
    if optimizer.kind == "adam":
        made["count"] = jnp.asarray(step, jnp.int32)
    return optax.tree.set(state, **made)


def scale_by_adam(b1: float, b2: float) -> optax.GradientTransformationExtraArgs:
    """Adam that takes its bias corrections and its eps at each step.

    `optax.scale_by_adam` computes 1 - b2^t in the moments' precision: in float32, with b2 = 0.999,
    each of the first thousand steps comes out 6e-6 too long, PyTorch's none.
    """

    def init(parameters: optax.Params) -> optax.ScaleByAdamState:
        mu, nu = (optax.tree.zeros_like(parameters) for _ in range(2))  # not one: steps reuse them
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), mu, nu)

    def update(
        updates: optax.Updates,
        state: optax.ScaleByAdamState,
        params: optax.Params | None = None,
        *,
        first: jax.Array,
        second: jax.Array,
        eps: jax.Array,
        **others: jax.Array,
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        updates = jax.tree.map(lambda m, v: m / first / (jnp.sqrt(v) / second + eps), mu, nu)
        return updates, optax.ScaleByAdamState(state.count + 1, mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)


def scale_by_rate() -> optax.GradientTransformationExtraArgs:
    """Scale updates by minus the learning rate given at each step."""

    def update(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        *,
        rate: jax.Array,
        **others: jax.Array,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        return jax.tree.map(lambda u: -rate * u, updates), state

    return optax.GradientTransformationExtraArgs(lambda parameters: optax.EmptyState(), update)
