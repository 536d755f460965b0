"""All families of changes, and the changes that fit an operation."""

from __future__ import annotations

from collections.abc import Sequence

from parity.capture.torch_operations import Operation
from parity.diagnosis.experiments import (
    activation,
    arithmetic,
    convolution,
    dropout,
    losses,
    normalization,
    pooling,
)
from parity.diagnosis.experiments.change import Changes, Family

FAMILIES: tuple[Family, ...] = (
    normalization.changes,
    convolution.changes,
    pooling.changes,
    activation.changes,
    losses.changes,
    dropout.changes,
    arithmetic.changes,
)


def changes_of(operations: Sequence[Operation]) -> Changes:
    """Every change of one of these operations."""
    for operation in operations:
        for family in FAMILIES:
            yield from family(operation, operations)
