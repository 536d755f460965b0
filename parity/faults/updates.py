"""Faults of the optimizer, its learning rate and its groups, injected in the port."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import GradientTransformationExtraArgs as ExtraArgs

import jax_impl.optim
from jax_impl.state import published
from parity.diagnosis.catalogue import Fault
from parity.ladder.port import Port
from parity.model_checks.recipes.optimizers import scheduled, stage_of, trained, training_of
from parity.model_checks.small_networks import Subject
from parity.spec.models import Config
from parity.spec.training.optimizers import Optimizer, idle, parameters

Injected = tuple[Fault, str, Callable[[], Port]]

SGD = Optimizer("sgd", lr=0.1, weight_decay=5e-4)  # where a recipe has no momentum to be wrong
RATES = [0.1] * 5 + [0.02] * 5


def injected(at: Subject) -> Iterator[Injected]:
    """Yield every fault of the optimizer and schedule: fault, description, port with the fault.

    Args:
        at: The network.
    """
    optimizer, rates = training_of(at.model)
    yield from _of(at, optimizer, rates)
    if optimizer.kind != "sgd" and stage_of(at.model) is not None:
        yield from _of(at, SGD, RATES, momentum_only=True)


def _of(
    at: Subject, optimizer: Optimizer, rates: Sequence[float], momentum_only: bool = False
) -> Iterator[Injected]:
    clean = trained(at.port, at.config, optimizer, rates)

    def port_with(transformation: Any, late: Sequence[float] | None = None) -> Callable[[], Port]:
        assert clean.optimizers is not None
        assert clean.schedules is not None
        made = dataclasses.replace(clean, optimizers=(clean.optimizers[0], transformation))
        if late is not None:
            schedules = (clean.schedules[0], lambda step: jnp.asarray(late)[step], len(late))
            made = dataclasses.replace(made, schedules=schedules)
        return lambda: made

    def otherwise(**changes: Any) -> Callable[[], Port]:
        return port_with(scheduled(at.config, dataclasses.replace(optimizer, **changes), rates))

    if optimizer.kind == "sgd":
        yield (
            Fault.RATE_IN_MOMENTUM,
            "rate in the momentum",
            port_with(scheduled(at.config, optimizer, rates, folded)),
        )
        yield Fault.NESTEROV, "Nesterov", otherwise(nesterov=not optimizer.nesterov)
    if momentum_only:
        return
    if optimizer.kind == "adam":
        yield (
            Fault.ADAM_EPS_INSIDE_ROOT,
            "eps inside the root",
            port_with(scheduled(at.config, optimizer, rates, inside)),
        )
        yield Fault.ADAM_EPS_HAT, "eps of the other kind", otherwise(eps_hat=not optimizer.eps_hat)
    if optimizer.decoupled:
        yield Fault.DECOUPLED_DECAY, "coupled", otherwise(decoupled=False)
    else:
        yield (
            Fault.DECOUPLED_DECAY,
            "decoupled",
            port_with(scheduled(at.config, optimizer, rates, decoupled)),
        )
    other = "not-norms" if optimizer.decay == "all" else "all"
    yield Fault.DECAY_MASK, f"decay of {other}", otherwise(decay=other)
    if idle(at.config, parameters(at.config)):
        everything = scheduled(at.config, optimizer, rates, spare=False)
        yield Fault.UNUSED_PARAMETERS_DECAY, "decay of what is not used", port_with(everything)
    late = [rates[0], *rates[:-1]]
    yield (
        Fault.SCHEDULE_OFFSET,
        "a step late",
        port_with(scheduled(at.config, optimizer, late), late),
    )
    early = [*rates[1:], rates[-1]]
    yield (
        Fault.SCHEDULE_OFFSET,
        "a step early",
        port_with(scheduled(at.config, optimizer, early), early),
    )


def inside(config: Config, optimizer: Optimizer, parameters: Iterable[str]) -> ExtraArgs:
    """Adam that adds its eps before it takes the root."""

    def core(m: jax.Array, v: jax.Array, now: Mapping[str, jax.Array]) -> jax.Array:
        return m / now["first"] / jnp.sqrt(v / now["second"] ** 2 + now["eps"])

    b1, b2 = optimizer.betas

    def init(weights: Any) -> tuple[Any, Any]:
        return jax.tree.map(jnp.zeros_like, weights), jax.tree.map(jnp.zeros_like, weights)

    def update(updates: Any, state: Any, weights: Any = None, **now: jax.Array) -> tuple[Any, Any]:
        m, v = state
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, updates)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, v, updates)
        return jax.tree.map(lambda m, v: core(m, v, now), m, v), (m, v)

    adam = optax.GradientTransformationExtraArgs(init, update)
    decay = _decay(config, optimizer, parameters)
    parts = (adam, decay) if optimizer.decoupled else (decay, adam)
    return optax.chain(*parts, jax_impl.optim.scale_by_rate())


def decoupled(config: Config, optimizer: Optimizer, parameters: Iterable[str]) -> ExtraArgs:
    """Build an optimizer with decoupled weight decay (Loshchilov and Hutter 2019)."""
    names = list(parameters)
    bare = dataclasses.replace(optimizer, weight_decay=0.0)
    plain = jax_impl.optim.build(config, bare, names)
    decays = optimizer.decays(config)

    def update(updates: Any, state: Any, weights: Any = None, **now: jax.Array) -> tuple[Any, Any]:
        made, state = plain.update(updates, state, weights, **now)
        made = {n: u - now["rate"] * decays[published(n)] * weights[n] for n, u in made.items()}
        return made, state

    return optax.GradientTransformationExtraArgs(plain.init, update)


def folded(config: Config, optimizer: Optimizer, parameters: Iterable[str]) -> ExtraArgs:
    """Momentum over steps, not over gradients: it keeps the rates of steps long made."""
    return optax.chain(
        _decay(config, optimizer, parameters),
        jax_impl.optim.scale_by_rate(),
        optax.trace(optimizer.momentum, optimizer.nesterov),
    )


def _decay(config: Config, optimizer: Optimizer, parameters: Iterable[str]) -> Any:
    decays = optimizer.decays(config)
    mask = {name: decays[published(name)] > 0 for name in parameters}
    return optax.add_decayed_weights(optimizer.weight_decay, mask)
