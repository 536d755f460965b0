"""Another base of a rotary embedding: told by its cosines and sines, wherever they come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from parity.capture.torch_calls import Invocation, Operation, Origin, Value
from parity.diagnosis.experiments.change import Changes, given, number, one

BASES = (10_000.0, 500_000.0, 1_000_000.0, 100_000.0, 100.0, 1_000.0)
NEAR = 1e-3  # of a cosine of float32 at a far position, and of the true one
WHOLE = 1e-2  # of a position, and of the whole number that it is


def changes(o: Operation) -> Changes:
    """Yield other bases of an operation that makes frequencies, or takes a table of them."""
    if o.name == "rpow" and isinstance(o.arguments.get("other"), int | float):
        base = float(o.arguments["other"])
        for other in BASES:
            if other != base:
                text = f"a base of {number(other)} instead of {number(base)}"
                yield given(o, "rope-base", text, other=other)
    for name in _stored(o):
        for base in BASES:
            yield one(o, "rope-base", f"a base of {number(base)}", _rebased(name, base))


def is_made_here(among: Sequence[Operation]) -> bool:
    """Return whether there is an operation that `changes` knows."""
    return any(o.name == "rpow" or any(_stored(o)) for o in among)


def _stored(o: Operation) -> Iterator[str]:
    """Yield the names of arguments that are stored tables of inverse frequencies."""
    for name, value in o.arguments.items():
        if not isinstance(value, Value) or value.origin is not Origin.STORED:
            continue
        if "inv_freq" in value.source and len(value.shape) == 1 and value.shape[0] > 1:
            yield name


def _rebased(name: str, base: float) -> Callable[[Invocation], Any]:
    def replacement(call: Invocation) -> Any:
        table = call[name]
        now = float(table[1]) ** (-len(table))
        return call(**{name: table ** (math.log(base) / math.log(now))})

    return replacement


def rebased(cos: torch.Tensor, sin: torch.Tensor, base: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cosines and sines of the same positions with another base.

    Raises:
        ValueError: They are no tables of a rotary embedding with one of `BASES`.
    """
    width = cos.shape[-1]
    every = torch.arange(width)
    for order in (every, every % max(width // 2, 1), every // 2):  # of halves, of neighbours
        pairs = int(order.max()) + 1
        for own in BASES if pairs > 1 else ():
            rates = own ** (-order.double() / pairs)
            # The slowest channel tells the position: the others have gone round.
            slowest = int(order.argmax())
            places = torch.atan2(sin[..., slowest], cos[..., slowest]) / rates[slowest]
            whole = places.round()
            places = torch.where((places - whole).abs() < WHOLE, whole, places)[..., None]
            if _near(cos, (places * rates).cos()) and _near(sin, (places * rates).sin()):
                angles = places * base ** (-order.double() / pairs)
                return angles.cos().to(cos), angles.sin().to(sin)
    raise ValueError("no cosines and sines of positions")


def _near(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool(((found - wanted).abs() < NEAR).all())
