"""Convolutions, plain and transposed, each in the formulation that runs best.

Kernels are HWIO; a transposed convolution's is (kh, kw, out, in).
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from jax_impl.ops.precision import wide

Pair = tuple[int, int]


def convolution(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, dilation: Pair, groups: int = 1
) -> jax.Array:
    """Convolve (N, H, W, in) to (N, H', W', out).

    Args:
        x: (N, H, W, in).
        kernel: (kh, kw, in / groups, out).
        stride: Vertical and horizontal.
        padding: Zeros on either side, vertical and horizontal.
        dilation: Vertical and horizontal.
        groups: Number of channel groups that are convolved separately.
    """
    if groups == x.shape[-1] == kernel.shape[3]:
        return depthwise(x, kernel, stride, padding, dilation)
    return conv(x, kernel, stride, padding, dilation, groups)


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
    """Convolve each channel separately: products of the shifted map, added up.

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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def conv_transpose(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, size: Pair
) -> jax.Array:
    """Transposed convolution to maps of this size; the kernel is (kh, kw, out, in).

    Written as a plain convolution that computes the stride x stride phases of the output as
    channels, which then move into the map: XLA's CPU backend runs convolutions with dilated inputs
    many times slower.

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
