"""Gradients clipped in another way than by a hook of the reference's optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

TORCH_EPS = 1e-6  # which `clip_grad_norm_` adds to the norm
SAME = 1e-12  # of factors by which all gradients are multiplied


@dataclasses.dataclass(frozen=True)
class Clipping:
    """How gradients are clipped instead.

    Attributes:
        eps: What is added to the norm of all gradients; None where that is not what is divided by.
        each: Whether each tensor is clipped by its own norm.
        values: Whether each value is clipped.
    """

    eps: float | None = None
    each: bool = False
    values: bool = False


# In words. Nothing is clipped where all is off.
OTHERS: dict[str, Clipping] = {
    "an eps of 0 instead of 1e-06 in the clipping of gradients": Clipping(eps=0.0),
    "an eps of 1e-08 instead of 1e-06 in the clipping of gradients": Clipping(eps=1e-8),
    "gradients that are not clipped": Clipping(),
    "gradients clipped by the norm of each tensor, not of all": Clipping(each=True),
    "gradients clipped value by value, not by their norm": Clipping(values=True),
}


class Clipper:
    """Clips gradients by the largest norm that a hook has let pass."""

    def __init__(self) -> None:
        self.largest: float | None = None

    def __call__(
        self, before: Sequence[torch.Tensor], after: Sequence[torch.Tensor], how: Clipping
    ) -> None:
        """Change gradients in place.

        Args:
            before: As they were before the reference's hooks.
            after: As they are now: they are replaced where the hooks clipped by a norm.
            how: How they are clipped instead.
        """
        factor = _factor(before, after)
        if factor is None:
            return
        norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.norm(g) for g in before])))
        if factor < 1 - SAME:
            self.largest = factor * (norm + TORCH_EPS)
        if self.largest is None:
            return
        for old, new in zip(before, after, strict=True):
            new.copy_(self._clipped(old, norm, how))

    def _clipped(self, g: torch.Tensor, norm: float, how: Clipping) -> torch.Tensor:
        assert self.largest is not None
        if how.values:
            return g.clamp(-self.largest, self.largest)
        if how.each:
            return g * min(1.0, self.largest / (float(torch.linalg.norm(g)) or 1.0))
        return g if how.eps is None else g * min(1.0, self.largest / (norm + how.eps))


def _factor(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> float | None:
    """Return the number by which all gradients were multiplied; None if there is none."""
    pairs = list(zip(before, after, strict=True))
    sizes = [tuple(float(torch.linalg.norm(g)) for g in pair) for pair in pairs]
    old, new = max(sizes, default=(0.0, 0.0))
    factor = new / old if old else 0.0
    same = all(torch.allclose(b, a * factor, rtol=SAME, atol=0) for a, b in pairs)
    return factor if same and factor else None
