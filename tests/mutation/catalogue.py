"""The faults of the contract, all kinds."""

from __future__ import annotations

from tests.mutation import data, mixed, names, networks, recipes, training
from tests.mutation.fault import KINDS, Fault

FAULTS: tuple[Fault, ...] = (
    *recipes.FAULTS,
    *data.FAULTS,
    *networks.FAULTS,
    *training.FAULTS,
    *names.FAULTS,
    *mixed.FAULTS,
)


def fast() -> list[Fault]:
    """One of each kind: the first that is not equivalent."""
    found = [next((f for f in FAULTS if f.kind == k and not f.equivalent), None) for k in KINDS]
    return [fault for fault in found if fault]
