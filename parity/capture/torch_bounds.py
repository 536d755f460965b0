"""Bounds in a PyTorch network, such as ReLU6's 6, and whether values lie on both sides of them.

A bound that no value reaches cannot tell a ReLU6 from a ReLU.
"""

from __future__ import annotations

import inspect
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


class Reached(TorchFunctionMode):
    """Context that notes which bounds are there, and which have values on both sides.

    Attributes:
        below: Bounds with values below them.
        above: Bounds with values above them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.below: set[Bound] = set()
        self.above: set[Bound] = set()
        self.found: dict[Bound, None] = {}

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        """Call the function."""
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "").rstrip("_")
        if name in BOUNDED:
            for bound, x in _bounds(name, args, kwargs, line_of_call()):
                self.found[bound] = None
                if bool((x < bound[1]).any()):
                    self.below.add(bound)
                if bool((x > bound[1]).any()):
                    self.above.add(bound)
        return function(*args, **kwargs)

    @property
    def missed(self) -> list[Bound]:
        """Bounds that have values on one side only, or on none."""
        return [bound for bound in self.found if bound not in self.below & self.above]


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
