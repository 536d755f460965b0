"""Convolutions, plain and transposed.

Kernels are HWIO; a transposed convolution's is (kh, kw, out, in), as `nnx.ConvTranspose` keeps it
with `transpose_kernel=True`. Where a layer's `compute_dtype` is set, it casts what it works on.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

Pair = tuple[int, int]


def cast(dtype: str | None, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Arrays as a layer of this `compute_dtype` takes them: as they are if it is none."""
    return arrays if dtype is None else tuple(a.astype(dtype) for a in arrays)


def wide(x: jax.Array) -> jax.Array:
    """In float32 at least, for what is added up, if only in the gradient.

    XLA's CPU backend adds up in the precision it is given: 16,384 numbers from 0 to 1 in bfloat16
    came to an eighth of their sum.
    """
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def add_bias(y: jax.Array, bias: nnx.Param | None, dtype: str | None) -> jax.Array:
    """Of a layer of this `compute_dtype`, if it has one; its gradient is a long sum."""
    if bias is None:
        return y
    return (wide(y) + wide(*cast(dtype, bias[...]))).astype(y.dtype)


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
        if self.kernel_size == (1, 1) and self.padding == (0, 0) and self.groups == 1:
            # A matrix product: XLA's CPU backend takes 1.5 to 3 times as long for the convolution.
            sh, sw = self.stride
            y = x[:, ::sh, ::sw] @ kernel[0, 0]
        elif self._is_line() and self.stride == (1, 1) and self.groups == 1:
            y = conv_by_taps(x, kernel, self.padding, self.dilation)
        elif self.groups == x.shape[-1] == kernel.shape[3]:
            y = depthwise(x, kernel, self.stride, self.padding, self.dilation)
        else:
            y = conv(x, kernel, self.stride, self.padding, self.dilation, self.groups)
        return add_bias(y, self.bias, self.compute_dtype)

    def _is_line(self) -> bool:
        """Whether it is a 3x1 or 1x3 of so many channels that `conv_by_taps` is faster."""
        return sorted(self.kernel_size) == [1, 3] and self.kernel.shape[2] >= 64


class ConvTranspose2d(nnx.Module):
    """Transposed convolution of (N, H, W, in) to (N, H', W', out), as `torch.nn.ConvTranspose2d`.

    Written as a plain convolution that computes the stride x stride phases of the output as
    channels, which then move into the map: XLA's CPU backend runs convolutions with dilated
    inputs many times slower.
    """

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

    Of the full result's kernel - stride superfluous rows it cuts off the smaller half at the top,
    so that with a 3x3 kernel and stride 2 all lies one pixel further down and to the right than
    with padding 1 and output padding 1. MindSpore 2.x, `nn.Conv2dTranspose`.
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
        """(N, H, W, in) to (N, stride * H, stride * W, out).

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


def conv(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, dilation: Pair, groups: int = 1
) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=stride,
        padding=tuple((p, p) for p in padding),
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


MOST_TAPS = 25  # of a kernel whose products are written out one by one


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def depthwise(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, dilation: Pair
) -> jax.Array:
    """A convolution of each channel by itself: products of the shifted map, added up.

    XLA's CPU backend takes a hundred times as long for the grouped convolution as PyTorch. A kernel
    as large as its map is one weighted sum over it.
    """
    (kh, kw, _, _), (sh, sw), (dh, dw), (ph, pw) = kernel.shape, stride, dilation, padding
    height, width = x.shape[1] + 2 * ph, x.shape[2] + 2 * pw
    rows, columns = (height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1
    if (kh, kw) == (height, width) == x.shape[1:3] and (dh, dw) == (1, 1):
        return jnp.einsum("nhwc,hwc->nc", x, kernel[:, :, 0])[:, None, None]
    if kh * kw > MOST_TAPS:
        return conv(x, kernel, stride, padding, dilation, x.shape[-1])
    dtype, x, kernel = x.dtype, wide(x), wide(kernel)
    x = jnp.pad(x, ((0, 0), (ph, ph), (pw, pw), (0, 0)))
    taps = [
        x[
            :,
            i * dh : i * dh + sh * (rows - 1) + 1 : sh,
            j * dw : j * dw + sw * (columns - 1) + 1 : sw,
        ]
        * kernel[i, j, 0]
        for i, j in itertools.product(range(kh), range(kw))
    ]
    return functools.reduce(jnp.add, taps).astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
@functools.partial(jax.jit, static_argnums=(2, 3))
def conv_by_taps(x: jax.Array, kernel: jax.Array, padding: Pair, dilation: Pair) -> jax.Array:
    """A convolution of stride 1 as one matrix product for all taps, shifted afterwards and added.

    Where a gradient is wanted it is XLA's convolution: a step of ERFNet compiles in two thirds of
    the time, and both gradients of a 1x3 take 38 ms instead of 108.

    On two cores, best of 9, in ms: 3x1 of 64 channels on 128x256 pixels 7.0 (XLA's convolution
    11.4, PyTorch's 4.7), 1x3 7.1 (10.3, 5.4); of 128 channels on 64x128 with dilation 16, 6.3 (7.2,
    4.7) and 5.7 (6.8, 4.3). Of 16 channels on 256x512 the convolution is as fast.
    """
    kh, kw, n_in, n_out = kernel.shape
    (ph, pw), (dh, dw) = padding, dilation
    taps = x @ kernel.transpose(2, 0, 1, 3).reshape(n_in, -1)
    zero, shifted = jnp.zeros((), taps.dtype), []
    for i, j in itertools.product(range(kh), range(kw)):
        start = (i * kw + j) * n_out
        rows, columns = (ph - i * dh, ph - (kh - 1 - i) * dh), (pw - j * dw, pw - (kw - 1 - j) * dw)
        rim = ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0))  # a negative one cuts off
        shifted.append(lax.pad(taps[..., start : start + n_out], zero, rim))
    return functools.reduce(jnp.add, shifted)


def conv_by_taps_forward(
    x: jax.Array, kernel: jax.Array, padding: Pair, dilation: Pair
) -> tuple[jax.Array, Callable]:
    return jax.vjp(lambda x, kernel: conv(x, kernel, (1, 1), padding, dilation), x, kernel)


def conv_by_taps_backward(padding: Pair, dilation: Pair, pull: Callable, dy: jax.Array) -> tuple:
    del padding, dilation
    return pull(dy)


conv_by_taps.defvjp(conv_by_taps_forward, conv_by_taps_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def conv_transpose(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, size: Pair
) -> jax.Array:
    """A transposed convolution to maps of this size; the kernel is (kh, kw, out, in).

    Its gradients are written out: that of x is the convolution that it is the transpose of, that of
    the kernel a matrix product for each tap. In CPU ms, of 16 to 12 channels, 3x3, stride 2, from 4
    maps of 90x120: 14 for both, 230 as derived (218 of them for the kernel); PyTorch 17 with the
    forward pass.
    """
    (sh, sw), (ph, pw), (height, width) = stride, padding, size
    kh, kw, n_out, n_in = kernel.shape
    # Output row y is phase (y + ph) % sh of the cell (y + ph) // sh.
    rows, columns = (height - 1 + ph) // sh + 1, (width - 1 + pw) // sw + 1
    th, tw = -(-kh // sh), -(-kw // sw)  # taps per phase
    kernel = jnp.pad(kernel, ((0, th * sh - kh), (0, tw * sw - kw), (0, 0), (0, 0)))
    kernel = kernel.reshape(th, sh, tw, sw, n_out, n_in)[::-1, :, ::-1]
    kernel = kernel.transpose(0, 2, 5, 1, 3, 4).reshape(th, tw, n_in, sh * sw * n_out)
    y = lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=((th - 1, rows - x.shape[1]), (tw - 1, columns - x.shape[2])),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    y = y.reshape(-1, rows, columns, sh, sw, n_out).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(-1, rows * sh, columns * sw, n_out)[:, ph : ph + height, pw : pw + width]


def conv_transpose_forward(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, size: Pair
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv_transpose(x, kernel, stride, padding, size), (x, kernel)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def conv_transpose_backward(
    stride: Pair, padding: Pair, size: Pair, saved: tuple, dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    (x, kernel), (sh, sw), (ph, pw) = saved, stride, padding
    (_, h, w, n_in), (kh, kw, n_out, _) = x.shape, kernel.shape
    # What pixel i of x reaches: rows i * sh - ph and kh - 1 after it, as far as there are any.
    rows = (ph, (h - 1) * sh + kh - ph - size[0], 0)
    columns = (pw, (w - 1) * sw + kw - pw - size[1], 0)
    dy = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), rows, columns, (0, 0, 0)))
    dx, pixels = conv(dy, kernel, stride, (0, 0), (1, 1)), x.reshape(-1, n_in)
    taps = [
        dy[:, i : i + (h - 1) * sh + 1 : sh, j : j + (w - 1) * sw + 1 : sw].reshape(-1, n_out)
        for i, j in itertools.product(range(kh), range(kw))
    ]
    return dx, jnp.stack([tap.T @ pixels for tap in taps]).reshape(kernel.shape)


conv_transpose.defvjp(conv_transpose_forward, conv_transpose_backward)


def uniform(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> jax.Array:
    """PyTorch's default: U(-b, b), b = 1 / sqrt(fan_in).

    Drawn in blocks of one size: XLA's CPU backend takes half a second to compile a draw of each
    new shape, 20 s for ENet.
    """
    bound, size, block = 1 / math.sqrt(fan_in), math.prod(shape), 1 << 14
    keys = jax.random.split(rngs.params(), -(-size // block))
    flat = [jax.random.uniform(key, (block,), minval=-bound, maxval=bound) for key in keys]
    return jnp.concatenate(flat)[:size].reshape(shape)
