"""Convolutions, plain and transposed.

Kernels are HWIO; a transposed convolution's is (kh, kw, out, in), as `nnx.ConvTranspose` keeps it
with `transpose_kernel=True`. A layer with a `compute_dtype` casts its input and weights to it.
"""

from __future__ import annotations

import math

import jax
from flax import nnx

from jax_impl.ops.convolution import conv_transpose, convolution
from jax_impl.ops.initial import uniform
from jax_impl.ops.precision import add_bias, cast

Pair = tuple[int, int]


def pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


class Conv2d(nnx.Module):
    """Convolution of (N, H, W, in) to (N, H', W', out); arguments as `torch.nn.Conv2d`.

    Weights start as PyTorch's do: U(-b, b) with b = 1 / sqrt(fan_in).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.kernel_size = pair(kernel_size)
        self.stride = pair(stride)
        self.padding = pair(padding)
        self.dilation = pair(dilation)
        self.groups = groups
        self.compute_dtype: str | None = None
        shape = (*self.kernel_size, in_channels // groups, out_channels)
        self.kernel = nnx.Param(uniform(rngs, shape, fan_in=math.prod(shape[:3])))
        self.bias = (
            nnx.Param(uniform(rngs, (out_channels,), fan_in=math.prod(shape[:3])))
            if bias
            else nnx.data(None)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        x, kernel = cast(self.compute_dtype, x, self.kernel[...])
        y = convolution(x, kernel, self.stride, self.padding, self.dilation, self.groups)
        return add_bias(y, self.bias, self.compute_dtype)


class ConvTranspose2d(nnx.Module):
    """Transposed convolution of (N, H, W, in) to (N, H', W', out), as in `torch.nn`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.kernel_size = pair(kernel_size)
        self.stride = pair(stride)
        self.padding = pair(padding)
        self.compute_dtype: str | None = None
        shape = (*self.kernel_size, out_channels, in_channels)
        self.kernel = nnx.Param(uniform(rngs, shape, fan_in=math.prod(shape[:3])))
        self.bias = (
            nnx.Param(uniform(rngs, (out_channels,), fan_in=math.prod(shape[:3])))
            if bias
            else nnx.data(None)
        )

    def __call__(self, x: jax.Array, output_size: Pair | None = None) -> jax.Array:
        """Upsample `x`.

        Args:
            x: (N, H, W, in).
            output_size: (H', W'), where the stride leaves a choice; the smallest if not given.

        Raises:
            ValueError: No output padding below the stride gives `output_size`.
        """
        (kh, kw), (sh, sw), (ph, pw) = self.kernel_size, self.stride, self.padding
        smallest = ((x.shape[1] - 1) * sh - 2 * ph + kh, (x.shape[2] - 1) * sw - 2 * pw + kw)
        height, width = output_size or smallest
        if not (0 <= height - smallest[0] < sh and 0 <= width - smallest[1] < sw):
            raise ValueError(
                f"output_size is {(height, width)}, but this transposed convolution makes"
                f" {smallest} of {x.shape[1:3]}, or up to {(sh - 1, sw - 1)} more"
            )
        size = (height, width)
        x, kernel = cast(self.compute_dtype, x, self.kernel[...])
        y = conv_transpose(x, kernel, self.stride, self.padding, size)
        return add_bias(y, self.bias, self.compute_dtype)


class ConvTranspose2dSame(ConvTranspose2d):
    """Transposed convolution to stride times the size, padded as MindSpore's `same`.

    The full result has kernel - stride superfluous rows; the smaller half of them is cut off at the
    top. With a 3x3 kernel and stride 2, the output is therefore shifted one pixel down and to the
    right, compared with padding 1 and output padding 1. MindSpore 2.x, `nn.Conv2dTranspose`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, bias=bias, rngs=rngs)
        if kernel_size < stride:
            raise NotImplementedError(f"kernel {kernel_size} with stride {stride} leaves gaps")
        self.cut = (kernel_size - stride) // 2

    def __call__(self, x: jax.Array, output_size: Pair | None = None) -> jax.Array:
        """Upsample (N, H, W, in) to (N, stride * H, stride * W, out).

        Raises:
            ValueError: `output_size` is given and another.
        """
        height, width = (s * n for s, n in zip(self.stride, x.shape[1:3], strict=True))
        if output_size is not None and tuple(output_size) != (height, width):
            raise ValueError(f"output_size is {output_size}, expected {(height, width)}")
        cut, size = (self.cut, self.cut), (height, width)
        x, kernel = cast(self.compute_dtype, x, self.kernel[...])
        y = conv_transpose(x, kernel, self.stride, cut, size)
        return add_bias(y, self.bias, self.compute_dtype)
