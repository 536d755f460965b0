"""Resizing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jax_impl.ops.precision import wide
from jax_impl.ops.resize import interpolate


class Resize(nnx.Module):
    """Bilinear interpolation to a size, without antialiasing.

    Args:
        align_corners: The corners' pixels keep their places, else the image's corners.
        rngs: Not used; every layer takes it.
    """

    def __init__(self, align_corners: bool = False, *, rngs: nnx.Rngs) -> None:
        self.align_corners = align_corners

    def __call__(self, x: jax.Array, size: tuple[int, int]) -> jax.Array:
        """(N, H, W, C) to (N, H', W', C)."""
        for axis, n in zip((1, 2), size, strict=True):
            x = interpolate(x, axis, n, self.align_corners)
        return x


class Nearest(nnx.Module):
    """Repetition of pixels to a size: pixel i of n' is pixel floor(i n / n') of n."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        pass

    def __call__(self, x: jax.Array, size: tuple[int, int]) -> jax.Array:
        """(N, H, W, C) to (N, H', W', C)."""
        y = wide(x)  # the gradient is a sum
        for axis, n in zip((1, 2), size, strict=True):
            if n % y.shape[axis] == 0:
                y = jnp.repeat(y, n // y.shape[axis], axis)
            else:
                y = jnp.take(y, jnp.arange(n) * y.shape[axis] // n, axis)
        return y.astype(x.dtype)


class BilinearX2(nnx.Module):
    """Bilinear interpolation to twice the size: pixel i lies at i / 2, the last one is repeated.

    Equals MindSpore's `ResizeBilinear` with neither `align_corners` nor `half_pixel_centers`.
    """

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        pass

    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, C) to (N, 2 H, 2 W, C)."""
        n, h, w, c = x.shape
        after = jnp.concatenate((x[:, 1:], x[:, -1:]), axis=1)
        x = jnp.stack((x, (x + after) / 2), axis=2).reshape(n, 2 * h, w, c)
        after = jnp.concatenate((x[:, :, 1:], x[:, :, -1:]), axis=2)
        return jnp.stack((x, (x + after) / 2), axis=3).reshape(n, 2 * h, 2 * w, c)
