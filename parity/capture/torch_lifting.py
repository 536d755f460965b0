"""PyTorch code that computes in float32 inside, run in float64.

A module in float64 may still cast to float32: a softmax of `dtype=torch.float32`, a norm that calls
`.float()`, a constant made by `torch.tensor(0.1)`. For the structure these casts are left out.

PyTorch's own derivative of the hard sigmoid is a sixth of float32 in float64, too: it is corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

NARROW = {torch.float32, torch.float16, torch.bfloat16}
CASTS = {torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16}
# They make a tensor of the default type where none is named.
FACTORIES = {
    torch.arange,
    torch.eye,
    torch.empty,
    torch.full,
    torch.linspace,
    torch.logspace,
    torch.ones,
    torch.tensor,
    torch.zeros,
}
SIXTH = float(torch.tensor(1 / 6, dtype=torch.float32))  # what PyTorch takes for 1 / 6


class Lifted(TorchFunctionMode):
    """Context in which PyTorch computes in float64 where it is told to take a narrower type.

    Attributes:
        layers: Layers in which a cast was left out, and what it was.
        running: The layers that have begun and not returned, innermost last.
    """

    def __init__(self, running: Sequence[str]) -> None:
        super().__init__()
        self.running = running
        self.layers: dict[str, str] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch's with float64 for every narrower type."""
        named = dict(kwargs or {})
        if func in CASTS and args[0].is_floating_point():
            self._note(func)
            return args[0].double() if args[0].dtype in NARROW else args[0]
        if func in CASTS and not args[0].is_complex():  # whole numbers, from which shares are made
            return args[0].double()
        wide = tuple(torch.float64 if _is_narrow(a) else a for a in args)
        named = {k: torch.float64 if _is_narrow(v) else v for k, v in named.items()}
        if any(map(_is_narrow, args)) or named != dict(kwargs or {}):
            self._note(func)
        if func not in FACTORIES or "dtype" in named:
            # Called here: bounds and operations are told by the line above the modes' own.
            found = func(*wide, **named)
            if _is_of_integers(found, (*wide, *named.values())):
                found = func(*map(_wide, wide), **{k: _wide(v) for k, v in named.items()})
            if func is torch.nn.functional.hardsigmoid:
                _correct_sixth(found)
            return found
        try:
            found = func(*wide, **named)
        except RuntimeError:  # a number that only float64 holds, such as its least one in a mask
            return func(*wide, **named, dtype=torch.float64)
        if _is_narrow(getattr(found, "dtype", None)):
            return func(*wide, **named, dtype=torch.float64)
        return found

    def _note(self, func: Callable[..., Any]) -> None:
        name = getattr(func, "__name__", "a cast")
        self.layers.setdefault(self.running[-1] if self.running else "", name)


def _correct_sixth(found: torch.Tensor) -> None:
    """Let the gradient of a hard sigmoid in float64 be that of float64."""
    if found.dtype == torch.float64 and found.grad_fn is not None:
        found.grad_fn.register_hook(
            lambda inputs, _: tuple(None if g is None else g * (1 / 6 / SIXTH) for g in inputs)
        )


def _is_of_integers(found: Any, values: Sequence[Any]) -> bool:
    """Return whether a function made narrow numbers of integers alone, such as a share of them."""
    if not (isinstance(found, torch.Tensor) and found.dtype in NARROW):
        return False
    tensors = [v for v in values if isinstance(v, torch.Tensor)]
    return bool(tensors) and not any(t.is_floating_point() or t.is_complex() for t in tensors)


def _wide(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) else value


def _is_narrow(value: Any) -> bool:
    return isinstance(value, torch.dtype) and value in NARROW
