"""Changes of losses that experiments prove."""

from __future__ import annotations

import jax
import pytest
import torch
from torch.nn import functional

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
