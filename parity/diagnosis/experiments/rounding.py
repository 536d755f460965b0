"""Numbers rounded to fewer bits of mantissa, forward and backward."""

from __future__ import annotations

from typing import Any

import torch


def rounded(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Round to so many bits of mantissa, to even."""
    mantissa, exponent = torch.frexp(x)
    scale = 2.0 ** (bits + 1)
    return torch.ldexp(torch.round(mantissa * scale) / scale, exponent)


class Rounded(torch.autograd.Function):
    """Rounds a tensor to so many bits, its gradient to others; 0 stands for no rounding."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bits: int, backward: int) -> torch.Tensor:
        ctx.bits = backward
        return rounded(x, bits) if bits else x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = gradients
        return rounded(gradient, ctx.bits) if ctx.bits else gradient, None, None
