"""An embedding and a head that share their weights on one side alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from parity import Port, check
from parity.diagnosis.catalogue import Fault
from parity.spec.errors import InputError

IDS = np.array([[1, 4, 0, 2], [3, 3, 6, 5]])


class Words(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.e, self.n, self.h = nn.Embedding(7, 6), nn.LayerNorm(6), nn.Linear(6, 7, bias=False)
        if tied:
            self.h.weight = self.e.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.h(self.n(self.e(ids)))


class WordsPort(nnx.Module):
    def __init__(self, tied: bool, factor: float = 1.0) -> None:
        rngs = nnx.Rngs(0)
        self.e = nnx.Embed(7, 6, rngs=rngs)
        self.n = nnx.LayerNorm(6, epsilon=1e-5, rngs=rngs)
        self.h = None if tied else nnx.Linear(6, 7, use_bias=False, rngs=rngs)
        self.factor = factor

    def __call__(self, ids: jax.Array) -> jax.Array:
        embedded = self.e(ids)
        # The same values, of which a share of the gradient is stopped.
        stopped = jax.lax.stop_gradient(embedded)
        x = self.n(stopped + self.factor * (embedded - stopped))
        return self.e.attend(x) if self.h is None else self.h(x)


def port(reference_tied: bool, port_tied: bool, factor: float = 1.0) -> Port:
    rules: list = [("e.weight", "e.embedding"), ("n.weight", "n.scale"), ("n.bias", "n.bias")]
    if port_tied:
        rules.append(("h.weight", None))
    else:
        rules.append(("h.weight", "h.kernel", (1, 0)))
    return Port(Words(reference_tied), WordsPort(port_tied, factor), (IDS,), rules)


@pytest.mark.parametrize("tied", [True, False])
def test_both_alike(tied: bool) -> None:
    """Catches a tied tensor that is a fault, where both sides tie it or neither does."""
    check(port(tied, tied)).assert_faithful()


def test_a_head_of_its_own() -> None:
    """Catches a tensor that the port does not tie, and nothing that says so."""
    report = check(port(True, False))
    assert [c.fault for c in report.causes] == [Fault.TIED_HEAD]
    assert "e.weight, which is tied, held as e.embedding and h.kernel" in str(report.causes[0])


def test_a_head_of_its_own_with_another_fault() -> None:
    """Catches a cause that is called proved where gradients are no shares of the reference's."""
    report = check(port(True, False, factor=0.5))
    assert not report.ok
    assert not [c for c in report.causes if c.fault == Fault.TIED_HEAD]


def test_a_tied_head() -> None:
    """Catches an embedding taken for the head's weights, and nothing that says so."""
    report = check(port(False, True))
    assert [c.fault for c in report.causes] == [Fault.TIED_HEAD], report.explanation()
    assert "e.weight in place of h.weight" in str(report.causes[0])


def converted(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A function that carries all names, as published converters do."""
    return {
        "e.embedding": arrays["e.weight"],
        "n.scale": arrays["n.weight"],
        "n.bias": arrays["n.bias"],
        "h.kernel": arrays["h.weight"].T,
    }


def test_a_function_may_carry_a_tied_weight_twice() -> None:
    """Catches a port that ties its weights refused, since a converter also gives the head's."""
    report = check(dataclasses.replace(port(True, True), weights=converted))
    report.assert_faithful()
    assert not [o for o in report.left_out if o.rung == "L0"], "it is compared by its other name"
    made = dataclasses.replace(port(True, False), weights=converted)
    assert not check(made).ok


def test_what_the_port_does_not_hold_is_refused() -> None:
    """Catches a weight that is lost without a word, since the port has no place for it."""
    made = dataclasses.replace(port(False, True), weights=converted)
    with pytest.raises(InputError, match=r"the port has no h\.kernel"):
        check(made)
