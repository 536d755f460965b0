"""One change of the reference: the hypothesis that an experiment tries."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from parity.capture.torch_operations import Invocation, Operation, Replacement, Replacements

# How simple a change is; of several that fit, the simplest is first. The last ones are many.
COMMON, PLAIN, ODD, RARE = 0, 1, 2, 3


@dataclasses.dataclass(frozen=True)
class Change:
    """A change of one operation of the reference, or of a few that belong together.

    Attributes:
        fault: The fault's name: of the catalogue, or another one.
        what: What is changed, such as "eps 1e-06 instead of 1e-05".
        at: The operation that it is about.
        make: Returns what is to be called instead of which operation, anew for each run.
        order: How simple it is: `COMMON`, `PLAIN`, `ODD` or `RARE`.
    """

    fault: str
    what: str
    at: Operation
    make: Callable[[], Replacements]
    order: int = COMMON


Changes = Iterator[Change]
Family = Callable[[Operation, Sequence[Operation]], Changes]


def one(
    operation: Operation, fault: str, what: str, replacement: Replacement, order: int = COMMON
) -> Change:
    """Return a change of a single operation."""
    return Change(fault, what, operation, lambda: {operation.index: replacement}, order)


def given(
    operation: Operation, fault: str, what: str, /, order: int = COMMON, **arguments: Any
) -> Change:
    """Return an operation that is given other arguments."""
    return one(operation, fault, what, lambda call: call(**arguments), order)


def linked(
    operation: Operation,
    fault: str,
    what: str,
    make: Callable[[dict[int, Invocation]], Mapping[int, Replacement]],
    order: int = PLAIN,
) -> Change:
    """Return a change of several operations, of which a later one needs an earlier one's.

    Args:
        operation: The one that it is about.
        fault: The fault's name.
        what: What is changed.
        make: Maps a dict, in which the replacements may keep what they are called with, to them.
        order: How simple it is.
    """
    return Change(fault, what, operation, lambda: make({}), order)


def number(value: Any) -> str:
    """Return a number as it is shown."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def maker(operation: Operation, name: str, among: Sequence[Operation]) -> Operation | None:
    """Return the operation that made an argument; None if it is not among these."""
    value = operation.tensor(name)
    if value is None or value.operation is None:
        return None
    return next((o for o in among if o.index == value.operation), None)
