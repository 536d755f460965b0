"""Faults of optimizers, and of schedules, that a whole check proves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
import torch
from torch import nn

from parity import check
from parity.diagnosis.catalogue import Fault
from tests.unit.diagnosis.experiments.linear import linear


def adam(**settings: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda module: torch.optim.Adam(module.parameters(), 0.01, **settings)


def sgd(**settings: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda module: torch.optim.SGD(module.parameters(), 0.1, **settings)


def rmsprop(**settings: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda module: torch.optim.RMSprop(module.parameters(), 0.01, **settings)


def clipped(norm: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """SGD that clips its gradients before each step."""

    def make(module: nn.Module) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(module.parameters(), 0.1)

        def clip(*_: Any) -> None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), norm)

        optimizer.register_step_pre_hook(clip)
        return optimizer

    return make


OPTIMIZERS: tuple[tuple[Any, Any, str, str], ...] = (
    (
        adam(eps=1e-3),
        optax.adam(0.01, eps=0.0, eps_root=1e-3),
        Fault.ADAM_EPS_INSIDE_ROOT,
        "eps inside the square root",
    ),
    (adam(), optax.adam(0.01, eps=1e-3), "adam-eps", "eps 0.001 instead of 1e-08"),
    (
        adam(weight_decay=0.1),
        optax.adamw(0.01, weight_decay=0.1),
        Fault.DECOUPLED_DECAY,
        "decoupled",
    ),
    (
        sgd(momentum=0.9),
        optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.1)),
        "momentum-average",
        "exponential moving average",
    ),
    (sgd(momentum=0.9), optax.sgd(0.1, 0.9, nesterov=True), Fault.NESTEROV, "Nesterov"),
    (adam(), optax.adam(0.01, eps=1e-16), "adam-eps", "(the steps are the same) instead of 1e-08"),
    (rmsprop(), optax.rmsprop(0.01, 0.99, 1e-8), "rmsprop-eps", "eps inside the square root"),
    (
        rmsprop(),
        optax.rmsprop(0.01),
        "rmsprop-eps",
        "eps inside the square root, and alpha 0.9 instead of 0.99",
    ),
    (
        rmsprop(momentum=0.9),
        optax.rmsprop(0.01, 0.99, 1e-8, momentum=0.9, nesterov=True, eps_in_sqrt=False),
        Fault.NESTEROV,
        "Nesterov's momentum",
    ),
    (
        rmsprop(momentum=0.9, centered=True),
        optax.rmsprop(0.01, 0.9, 1e-8, centered=True, momentum=0.9, eps_in_sqrt=False),
        "optimizer-setting",
        "alpha 0.9 instead of 0.99",
    ),
    (
        clipped(1e-2),
        optax.chain(optax.clip_by_global_norm(1e-2), optax.sgd(0.1)),
        "gradient-clipping",
        "an eps of 0 instead of 1e-06 in the clipping",
    ),
    (clipped(1e-2), optax.sgd(0.1), "gradient-clipping", "that are not clipped"),
    (
        clipped(1e-2),
        optax.chain(optax.clip(1e-2), optax.sgd(0.1)),
        "gradient-clipping",
        "value by value",
    ),
    (
        clipped(1e-2),
        optax.chain(
            optax.stateless_with_tree_map(
                lambda g, _: g * jnp.minimum(1.0, 1e-2 / jnp.linalg.norm(g))
            ),
            optax.sgd(0.1),
        ),
        "gradient-clipping",
        "by the norm of each tensor",
    ),
    (
        sgd(momentum=0.9, weight_decay=0.1),
        optax.chain(
            optax.add_decayed_weights(
                0.1, mask=lambda tree: jax.tree.map(lambda a: a.ndim > 1, tree)
            ),
            optax.sgd(0.1, 0.9),
        ),
        Fault.DECAY_MASK,
        "no weight decay of 1 parameters (bias)",
    ),
)


@pytest.mark.parametrize("case", OPTIMIZERS, ids=[case[3] for case in OPTIMIZERS])
def test_optimizers(case: tuple) -> None:
    """Catches an optimizer's fault that is not proved, or another one that is."""
    theirs, ours, fault, words = case
    report = check(linear(optimizers=(theirs, ours)), levels=("L4",))
    assert [c.fault for c in report.causes] == [fault], report.explanation()
    assert words in report.explanation()[0]


def test_an_optimizer_with_settings_of_other_kinds() -> None:
    """Catches a setting of another number of values, with which the search for causes raises."""

    def adafactor(module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adafactor(module.parameters(), 0.01)

    report = check(linear(optimizers=(adafactor, optax.adam(0.01))), levels=("L4",))
    assert not report.ok
    assert not [note for note in report.notes if "was not looked for" in note]


def test_a_late_schedule() -> None:
    """Catches rates that are off by a step unexplained, and other rates explained by that."""

    def factor(step: Any) -> Any:
        return 0.1 * 0.5**step

    optimizers = (sgd(), optax.sgd(lambda step: factor(jnp.maximum(step - 1, 0))))
    late = check(
        linear(
            optimizers=optimizers,
            schedules=(factor, lambda step: factor(jnp.maximum(step - 1, 0)), 8),
        ),
        levels=("L4",),
    )
    assert [c.fault for c in late.causes] == [Fault.SCHEDULE_OFFSET]
    assert "1 step too late" in late.explanation()[0]
    other = check(
        linear(
            optimizers=(sgd(), optax.sgd(lambda step: factor(step) * (1 + 0.1 * step))),
            schedules=(factor, lambda step: factor(step) * (1 + 0.1 * step), 8),
        ),
        levels=("L4",),
    )
    assert not other.ok
    assert not other.causes
