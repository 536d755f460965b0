"""Changes of losses that experiments prove."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from parity import check
from parity.diagnosis.catalogue import Fault
from tests.unit.diagnosis.experiments.linear import linear
from tests.unit.diagnosis.experiments.proving import RNG, proved


@pytest.mark.parametrize("shape", [(5,), (4, 1)])
def test_a_loss_of_unbatched_logits_or_of_one_class(shape: tuple[int, ...]) -> None:
    """Catches causes that are not looked for, since a change of the loss cannot be made."""
    target = torch.zeros(shape[:-1], dtype=torch.long)

    def reference(x: torch.Tensor) -> torch.Tensor:
        return 3 + functional.cross_entropy(x, target, label_smoothing=0.1)

    def port(x: jax.Array) -> jax.Array:
        return 4 - jax.nn.log_softmax(x)[..., 0].mean()

    assert not proved(reference, port, RNG.normal(size=shape))
    if shape == (5,):
        found = proved(reference, lambda x: port(x) - 1, RNG.normal(size=shape))
        assert any(proof.what == "label smoothing 0.0" for proof in found)


def their_loss(outputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(outputs, labels.long(), weights, ignore_index=255)


def our_loss(divide: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable:
    def loss(outputs: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
        counts = labels != 255
        at = jnp.where(counts, labels, 0)
        each = weights[at] * counts
        nll = -jnp.take_along_axis(jax.nn.log_softmax(outputs), at[:, None], 1)[:, 0]
        return (each * nll).sum() / divide(each, counts)

    return loss


LOSSES: tuple[tuple[Callable, str | None], ...] = (
    (lambda each, counts: each.sum(), None),
    (lambda each, counts: counts.sum(), Fault.LOSS_CLASS_WEIGHTS),
    (lambda each, counts: jnp.asarray(counts.size), Fault.LOSS_MEAN),
    (lambda each, counts: each.sum() + 0.1, ""),
)


@pytest.mark.parametrize(("divide", "fault"), LOSSES)
def test_losses(divide: Callable, fault: str | None) -> None:
    """Catches a loss's denominator that is guessed, and one that no known cause gives."""
    labels, weights = np.array([0, 2, 255, 1, 1]), np.array([1.0, 2.0, 0.5], np.float32)
    made = linear(losses=(their_loss, our_loss(divide)), targets=(labels, weights))
    report = check(made, levels=("L2", "L3"))
    assert report.ok == (fault is None)
    assert [c.fault for c in report.causes][:1] == ([fault] if fault else [])
