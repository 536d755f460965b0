"""Bounds in a PyTorch network, such as ReLU6's 6, and whether values lie on both sides of them.

A bound that no value reaches cannot tell a ReLU6 from a ReLU.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from parity.capture.torch_operations import line_of_call
from parity.report.source import SourceLine

Bounds = Callable[..., tuple[Any, ...]]

# Name of a function -> the values of its input at which it becomes another function. Those of
# ReLU, ELU and the like, 0, are reached by nearly all inputs, and often on purpose by none.
BOUNDED: dict[str, Bounds] = {
    "hardtanh": lambda input, min_val=-1.0, max_val=1.0, **_: (min_val, max_val),
    "relu6": lambda input, **_: (6.0,),
    "hardswish": lambda input, **_: (-3.0, 3.0),
    "hardsigmoid": lambda input, **_: (-3.0, 3.0),
    "hardshrink": lambda input, lambd=0.5, **_: (-lambd, lambd),
    "softshrink": lambda input, lambd=0.5, **_: (-lambd, lambd),
    "threshold": lambda input, threshold, value, **_: (threshold,),
    "clamp": lambda input, min=None, max=None, **_: (min, max),
    "clip": lambda input, min=None, max=None, **_: (min, max),
    "clamp_max": lambda input, max, **_: (max,),
}
LARGEST = 1e30  # of a bound; masks' lowest scores are no bounds

Bound = tuple[str, float, SourceLine]  # a function, its bound, and the line where it is called
Place = tuple[Bound, int]  # and how many calls of it came before: modules are called by one line


class Reached(TorchFunctionMode):
    """Context that notes which bounds are there, and which have values on both sides.

    Every call counts: of two ReLU6 one may be reached, and the other not.

    Attributes:
        below: Bounds with values below them.
        above: Bounds with values above them.
        found: How often each bound was met.
    """

    def __init__(self) -> None:
        super().__init__()
        self.below: set[Place] = set()
        self.above: set[Place] = set()
        self.found: Counter[Bound] = Counter()

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        """Call the function."""
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "").rstrip("_")
        if name in BOUNDED:
            for bound, x in _bounds(name, args, kwargs, line_of_call()):
                place = bound, self.found[bound]
                self.found[bound] += 1
                if bool((x < bound[1]).any()):
                    self.below.add(place)
                if bool((x > bound[1]).any()):
                    self.above.add(place)
        return function(*args, **kwargs)

    @property
    def missed(self) -> list[Bound]:
        """Bounds that have values on one side only, or on none, at a call: one entry for each."""
        reached = self.below & self.above
        return [b for b, calls in self.found.items() for i in range(calls) if (b, i) not in reached]


def _bounds(
    name: str, args: tuple, kwargs: Any, line: SourceLine
) -> Iterator[tuple[Bound, torch.Tensor]]:
    try:
        given = inspect.signature(BOUNDED[name]).bind(*args, **kwargs)
    except TypeError:  # called in another way
        return
    x = given.arguments["input"]
    if not isinstance(x, torch.Tensor) or not x.is_floating_point() or x.numel() == 0:
        return
    for at in BOUNDED[name](*args, **kwargs):
        if isinstance(at, int | float) and 0 < abs(at) < LARGEST:
            yield (name, float(at), line), x.detach()
