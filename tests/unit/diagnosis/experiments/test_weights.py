"""Orders and roundings of stored weights that experiments prove."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments import weights
from tests.unit.diagnosis.experiments.proving import RNG


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda w: w.transpose(2, 3, 0, 1), Fault.KERNEL_AXES),
        (lambda w: w.transpose(2, 3, 1, 0)[::-1, ::-1], Fault.KERNEL_NOT_FLIPPED),
        (lambda w: w.reshape(3, 3, 4, 4), Fault.KERNEL_AXES),
        (lambda w: w.transpose(2, 3, 1, 0).astype(np.float16).astype(w.dtype), "weights-rounded"),
    ],
)
def test_stored_weights(change: Callable[[np.ndarray], np.ndarray], fault: str) -> None:
    """Catches a stored kernel whose order or rounding is not recognised."""
    w = RNG.normal(size=(4, 4, 3, 3))
    found = weights.proofs("c.kernel", "c.weight", (2, 3, 1, 0), {"c.weight": w}, change(w))
    assert fault in [proof.fault for proof in found]
    sound = w.transpose(2, 3, 1, 0)
    assert not weights.proofs("c.kernel", "c.weight", (2, 3, 1, 0), {"c.weight": w}, sound + 1e-9)


def test_fused_queries_keys_and_values() -> None:
    """Catches a fused projection split for each head, taken for one split by kind."""
    w = RNG.normal(size=(24, 8))
    stored = w.reshape(3, 2, 4, 8).transpose(1, 0, 2, 3).reshape(24, 8).T
    found = weights.proofs("qkv.kernel", "qkv.weight", (1, 0), {"qkv.weight": w}, stored)
    assert {proof.fault for proof in found} == {"qkv-per-head"}
    assert any("3 for each head (2 heads)" in str(proof) for proof in found)
