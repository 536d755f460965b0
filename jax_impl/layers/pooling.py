"""Pooling and unpooling."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jax_impl.ops.pooling import max_pool, max_unpool, windows
from jax_impl.ops.precision import wide


class MaxPool2d(nnx.Module):
    """Maxima of windows, rounding the size down; the first of equals wins, also for the gradient.

    Raises:
        NotImplementedError: Indices of padded windows.
    """

    def __init__(
        self,
        kernel_size: int,
        stride: int,
        padding: int = 0,
        return_indices: bool = False,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        if return_indices and padding:
            raise NotImplementedError("indices of padded windows")
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.return_indices = return_indices

    def __call__(self, x: jax.Array) -> Any:
        """Pool (N, H, W, C) to (N, H', W', C); also return the maxima's y * W + x, int32.

        Raises:
            ValueError: `x` is smaller than a window.
        """
        k, s, p = self.kernel_size, self.stride, self.padding
        _, height, width, _ = x.shape
        rows, columns = (height + 2 * p - k) // s + 1, (width + 2 * p - k) // s + 1
        if rows < 1 or columns < 1:
            raise ValueError(f"a {height}x{width} map has no {k}x{k} window to pool")
        best, indices = max_pool(x, k, s, p, (rows, columns))
        return (best, indices) if self.return_indices else best


class MaxPool2dSame(nnx.Module):
    """Maxima of windows, padded as MindSpore's `same`: a side of n gives ceil(n / stride).

    If the number of rows to pad is odd, the larger half is added at the bottom. MindSpore 2.x,
    `nn.MaxPool2d`.
    """

    def __init__(self, kernel_size: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.kernel_size = kernel_size
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, C) to (N, H', W', C)."""
        k, s = self.kernel_size, self.stride
        rows, columns = (-(-n // s) for n in x.shape[1:3])
        totals = [
            max((m - 1) * s + k - n, 0) for m, n in zip((rows, columns), x.shape[1:3], strict=True)
        ]
        rim = [(0, 0), *((t // 2, t - t // 2) for t in totals), (0, 0)]
        x = jnp.pad(x, rim, constant_values=-jnp.inf)
        return max_pool(x, k, s, 0, (rows, columns))[0]


class MaxUnpool2d(nnx.Module):
    """Puts values back where `MaxPool2d` of the same window and stride found them, zeros elsewhere.

    No scatter: each output pixel looks whether its window's index is its own.
    """

    def __init__(self, kernel_size: int, stride: int, *, rngs: nnx.Rngs) -> None:
        if kernel_size != stride:
            raise NotImplementedError("unpooling of windows that overlap or leave gaps")
        self.stride = stride

    def __call__(self, x: jax.Array, indices: jax.Array, output_size: tuple[int, int]) -> jax.Array:
        """Unpool (N, H, W, C) to (N, H', W', C).

        Args:
            x: The values.
            indices: For each value its position y * W' + x in the output; same shape as `x`.
            output_size: (H', W'), the size before pooling.
        """
        return max_unpool(x, indices, self.stride, output_size)


class AdaptiveAvgPool2d(nnx.Module):
    """Means of output_size x output_size windows, which overlap where they do not divide a side.

    As in PyTorch, of b windows over n pixels the i-th begins at floor(i n / b) and ends before
    ceil((i + 1) n / b).
    """

    def __init__(self, output_size: int, *, rngs: nnx.Rngs) -> None:
        self.output_size = output_size

    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, C) to (N, output_size, output_size, C)."""
        rows, columns = (windows(n, self.output_size) for n in x.shape[1:3])
        area = rows.sum(1)[:, None] * columns.sum(1)
        y = wide(x)
        rows, columns = rows.astype(y.dtype), columns.astype(y.dtype)
        sums = jnp.einsum("ih,nhwc,jw->nijc", rows, y, columns)
        return (sums / area[..., None].astype(y.dtype)).astype(x.dtype)


class AvgPool2d(nnx.Module):
    """Means of windows side by side; rows and columns that fill none are left out."""

    def __init__(self, kernel_size: int, *, rngs: nnx.Rngs) -> None:
        self.kernel_size = kernel_size

    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, C) to (N, H // kernel_size, W // kernel_size, C)."""
        k, (n, h, w, c) = self.kernel_size, x.shape
        x = x[:, : h // k * k, : w // k * k]
        return x.reshape(n, h // k, k, w // k, k, c).mean(axis=(2, 4))
