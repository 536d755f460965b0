"""Dropout with masks passed in by the caller; nothing is drawn here."""

from __future__ import annotations

import jax
from flax import nnx


class Dropout(nnx.Module):
    """Element dropout.

    Args:
        p: Probability of dropping an element.
        rngs: Not used; every layer takes it.
    """

    def __init__(self, p: float, *, rngs: nnx.Rngs) -> None:
        self.p = p
        self.deterministic = False  # `train()` and `eval()` of the network set it

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Apply dropout in train mode; return `x` unchanged in eval mode.

        Args:
            x: (N, H, W, C).
            mask: True where an element is kept, in x's shape; not read in eval mode or where p is
                0.

        Raises:
            ValueError: In train mode with p above 0, the mask is missing or has another shape.
        """
        if self.deterministic or self.p == 0.0:
            return x
        expected = self.mask_shape(x)
        if mask is None or mask.shape != expected:
            found = None if mask is None else mask.shape
            raise ValueError(
                f"dropout with p={self.p} in train mode needs a mask {expected}, got {found}"
            )
        return x * self.spread(mask.astype(x.dtype) / (1.0 - self.p))

    def mask_shape(self, x: jax.Array) -> tuple[int, ...]:
        return x.shape

    def spread(self, mask: jax.Array) -> jax.Array:
        return mask


class Dropout2d(Dropout):
    """Channel dropout: the mask is (N, C), true where a channel is kept."""

    def mask_shape(self, x: jax.Array) -> tuple[int, ...]:
        return (x.shape[0], x.shape[-1])

    def spread(self, mask: jax.Array) -> jax.Array:
        return mask[:, None, None, :]
