"""L4 and L5 on anybody's pair: what trains it is compared, and faults of it are found."""

from __future__ import annotations

from collections.abc import Callable

import jax
import optax
import pytest
import torch
from flax import nnx

from parity import Port, check
from parity.report.report import Report

RATE = 0.05


class Net(nnx.Module):
    """One hidden layer, as the reference has it."""

    def __init__(self) -> None:
        self.a = nnx.Linear(6, 5, rngs=nnx.Rngs(0))
        self.b = nnx.Linear(5, 3, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.b(nnx.tanh(self.a(x)))


class Reference(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(6, 5), torch.nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.a(x)))


def sgd(module: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), RATE, momentum=0.9, weight_decay=1e-2)


def adam(module: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), RATE, weight_decay=1e-2)


def optax_sgd(nesterov: bool = False, decay: float = 1e-2) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(decay), optax.sgd(RATE, 0.9, nesterov))


def optax_adam(eps: float = 1e-8, decoupled: bool = False) -> optax.GradientTransformation:
    decay = optax.add_decayed_weights(1e-2)
    parts = [optax.scale_by_adam(eps=eps), decay] if decoupled else [decay]
    rest = [] if decoupled else [optax.scale_by_adam(eps=eps)]
    return optax.chain(*parts, *rest, optax.scale(-RATE))


def climbed(
    reference: Callable[[torch.nn.Module], torch.optim.Optimizer],
    port: optax.GradientTransformation,
    levels: tuple[str, ...],
) -> Report:
    torch.manual_seed(0)
    weights = [(r"(.*)\.weight", r"\1.kernel", (1, 0)), (r"(.*)\.bias", r"\1.bias")]
    pair = Port(
        reference=Reference(),
        port=Net(),
        weights=weights,
        inputs=(4, 6),
        optimizers=(reference, port),
        steps=6,
    )
    return check(pair, levels)


def test_equal_optimizers_pass() -> None:
    """Catches a false alarm, and a rung that compares nothing."""
    report = climbed(sgd, optax_sgd(), ("L4", "L5"))
    assert report.ok, report.failures()[0].sentence()
    assert {c.rung for c in report.checks} == {"L4", "L5"}


def test_adam_of_optax_is_the_same_function_and_less_exact() -> None:
    """Catches a false alarm in float64, and a rung that is blind to what float32 loses.

    `optax.scale_by_adam` computes 1 - b2^t in float32: its first steps are some 1e-5 too long.
    """
    report = climbed(adam, optax_adam(), ("L4", "L5"))
    assert {(c.rung, c.kind) for c in report.failures()} == {("L4", "numerics")}
    assert max(c.error for c in report.failures()) < 2e-5


@pytest.mark.parametrize(
    ("reference", "port"),
    [
        (sgd, optax_sgd(nesterov=True)),
        (sgd, optax_sgd(decay=0.0)),
        (adam, optax_adam(eps=1e-4)),
        (adam, optax_adam(decoupled=True)),
    ],
    ids=["nesterov", "no decay", "eps", "decoupled decay"],
)
@pytest.mark.parametrize("level", ["L4", "L5"])
def test_faulty_optimizers_are_found(
    reference: Callable, port: optax.GradientTransformation, level: str
) -> None:
    """Catches a rung that passes an optimizer which is not the reference's."""
    report = climbed(reference, port, (level,))
    assert not report.ok
    assert {c.rung for c in report.failures()} == {level}
