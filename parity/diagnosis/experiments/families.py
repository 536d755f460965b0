"""All families of changes, and the changes that fit a module's operations."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from parity.capture.torch_operations import Operation, Replacements
from parity.diagnosis.experiments import (
    activation,
    arithmetic,
    attention,
    composite,
    convolution,
    dropout,
    embedding,
    losses,
    normalization,
    pooling,
    recurrent,
    rotary,
    rotary_values,
    turned,
)
from parity.diagnosis.experiments.change import ODD, Change, Changes, Family

FAMILIES: tuple[Family, ...] = (
    normalization.changes,
    convolution.changes,
    pooling.changes,
    activation.changes,
    attention.changes,
    embedding.changes,
    rotary.changes,
    rotary_values.changes,
    recurrent.changes,
    losses.changes,
    dropout.changes,
    composite.changes,
    arithmetic.changes,
    turned.changes,
)
TOGETHER = 64  # operations of one name that are changed together, at most


def changes_of(operations: Sequence[Operation]) -> Changes:
    """Yield every change of one of these operations, and of all that are alike together."""
    found = [
        change
        for operation in operations
        for family in FAMILIES
        for change in family(operation, operations)
    ]
    yield from found
    yield from _together(found)


def _together(changes: Sequence[Change]) -> Changes:
    """Yield the same change of all operations of one name, such as of keys and of values."""
    groups: dict[tuple[str, str, str], dict[int, Change]] = collections.defaultdict(dict)
    for change in changes:
        groups[change.at.name, change.fault, change.what][change.at.index] = change
    for group in groups.values():
        every = list(group.values())
        if 1 < len(every) <= TOGETHER:
            yield _joined(every)
        lines = collections.defaultdict(list)
        for change in every:
            lines[change.at.line].append(change)
        for line, some in lines.items():
            if line and 1 < len(some) < len(every):
                yield _joined(some)


def _joined(changes: Sequence[Change]) -> Change:
    first = changes[0]

    def make() -> Replacements:
        found: dict = {}
        for change in changes:
            found |= change.make()
        return found

    what = f"{first.what}, at each of {len(changes)} places"
    return Change(first.fault, what, first.at, make, max(first.order, ODD - 1))
