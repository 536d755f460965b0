"""Changes of masks that let a query see so many keys before it, as sliding windows do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from parity.capture.torch_operations import Invocation, Operation
from parity.diagnosis.experiments.change import ODD, Changes, one

FAULT = "attention-window"
LOW = -50.0  # a mask of numbers hides keys by lower ones


def changes(operation: Operation, name: str, hides: bool = False) -> Changes:
    """Yield changes of the window of a mask.

    Args:
        operation: The operation that masks.
        name: Its mask, of truth values or of numbers that are added to scores.
        hides: Whether the mask is true where a key is hidden, not where it is seen.
    """
    for what, other in _windows():
        yield one(operation, FAULT, what, _with(name, hides, other), ODD)


def _windows() -> Iterator[tuple[str, Callable[[torch.Tensor], torch.Tensor]]]:
    yield "its mask's window one key wider", lambda seen: seen | (_near(seen, 1) & _known(seen))
    yield "its mask's window one key narrower", lambda seen: seen & _near(seen, -1)
    yield (
        "its mask without a window",
        lambda seen: seen | (_near(seen, seen.shape[-1]) & ~_near(seen, 0) & _known(seen)),
    )


def _with(
    name: str, hides: bool, other: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[Invocation], Any]:
    def replacement(call: Invocation) -> Any:
        mask = call[name]
        if mask.dtype == torch.bool:
            seen = other(~mask if hides else mask)
            return call(**{name: ~seen if hides else seen})
        seen = mask > LOW
        if seen.all():
            raise ValueError("no mask: it hides nothing")
        kept = torch.where(seen, mask, 0.0)
        return call(**{name: torch.where(other(seen), kept, mask.min())})

    return replacement


def _near(seen: torch.Tensor, more: int) -> torch.Tensor:
    """Return which keys stand at most so far before a query as the farthest seen, and so many more.

    The last query stands at the last key, as behind a cache.
    """
    rows, keys = seen.shape[-2:]
    behind = torch.arange(keys - rows, keys)[:, None] - torch.arange(keys)
    farthest = torch.where(seen, behind, 0).max()
    return (behind >= 0) & (behind <= farthest + more)


def _known(seen: torch.Tensor) -> torch.Tensor:
    """Return which keys any query sees: no padding."""
    return seen.any(-2, keepdim=True)
