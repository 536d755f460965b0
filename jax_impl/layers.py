"""Layers of the JAX side. `torch_impl/layers.py` answers name by name; arrays are NHWC here.

Defaults are PyTorch's, and so are the semantics where Flax differs: running variances are unbiased,
the first of equal maxima wins and takes the gradient, paddings are numbers. Kernels are HWIO;
a transposed convolution's kernel is (kh, kw, out, in), as `nnx.ConvTranspose` keeps it with
`transpose_kernel=True`.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

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
        shape = (*self.kernel_size, in_channels // groups, out_channels)
        self.kernel = nnx.Param(uniform(rngs, shape, fan_in=math.prod(shape[:3])))
        self.bias = (
            nnx.Param(uniform(rngs, (out_channels,), fan_in=math.prod(shape[:3])))
            if bias
            else nnx.data(None)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.kernel_size == (1, 1) and self.padding == (0, 0) and self.groups == 1:
            # A matrix product: XLA's CPU backend takes 1.5 to 3 times as long for the convolution.
            sh, sw = self.stride
            y = x[:, ::sh, ::sw] @ self.kernel[0, 0]
        else:
            y = lax.conv_general_dilated(
                x,
                self.kernel[...],
                window_strides=self.stride,
                padding=tuple((p, p) for p in self.padding),
                rhs_dilation=self.dilation,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=self.groups,
            )
        return y if self.bias is None else y + self.bias[...]


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
        y = conv_transpose(x, self.kernel[...], self.stride, self.padding, size)
        return y if self.bias is None else y + self.bias[...]


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def conv_transpose(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, size: Pair
) -> jax.Array:
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


class BatchNorm2d(nnx.Module):
    """Batch normalisation over N, H and W; stores the unbiased variance, as PyTorch does.

    Args:
        num_features: Channels.
        eps: Added to the variance.
        momentum: Share of the new batch in the running statistics (Flax's is one minus this).
        rngs: Not used; every layer takes it.
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, *, rngs: nnx.Rngs
    ) -> None:
        self.eps = eps
        self.momentum = momentum
        self.use_running_average = False  # `train()` and `eval()` of the network set it
        self.scale = nnx.Param(jnp.ones(num_features))
        self.bias = nnx.Param(jnp.zeros(num_features))
        self.mean = nnx.BatchStat(jnp.zeros(num_features))
        self.var = nnx.BatchStat(jnp.ones(num_features))
        self.num_batches_tracked = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise (N, H, W, C); in train mode by the batch, whose statistics are then stored.

        Raises:
            ValueError: Train mode and one value per channel.
        """
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
            return normalize(x, mean, var, self.scale[...], self.bias[...], self.eps)
        n = x.size // x.shape[-1]
        if n == 1:
            raise ValueError(f"batch norm in train mode needs two values a channel, got {x.shape}")
        y, mean, var = batch_norm(x, self.scale[...], self.bias[...], self.eps)
        m = self.momentum
        self.mean[...] = (1 - m) * self.mean[...] + m * mean
        self.var[...] = (1 - m) * self.var[...] + m * var * (n / (n - 1))
        self.num_batches_tracked[...] += 1
        return y


@functools.partial(jax.jit, static_argnums=5)
def normalize(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> jax.Array:
    return (x - mean) * (scale / jnp.sqrt(var + eps)) + bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
@functools.partial(jax.jit, static_argnums=3)
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise by the batch: y, and its mean and biased variance, which carry no gradient.

    The gradient is written out (Ioffe and Szegedy 2015, section 3): the derived one compiles and
    runs half as long again.
    """
    mean = x.mean(axis=(0, 1, 2))
    # Two passes: E[x^2] - E[x]^2 cancels where the mean is large (Flax's fast variance).
    var = jnp.square(x - mean).mean(axis=(0, 1, 2))
    return normalize(x, mean, var, scale, bias, eps), mean, var


def batch_norm_forward(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> tuple:
    y, mean, var = batch_norm(x, scale, bias, eps)
    return (y, mean, var), (x, scale, mean, var)


@functools.partial(jax.jit, static_argnums=0)
def batch_norm_backward(eps: float, saved: tuple, cotangents: tuple) -> tuple:
    (x, scale, mean, var), dy, n = saved, cotangents[0], saved[0].size // saved[0].shape[-1]
    inverse = 1 / jnp.sqrt(var + eps)
    normal = (x - mean) * inverse
    d_scale, d_bias = (dy * normal).sum(axis=(0, 1, 2)), dy.sum(axis=(0, 1, 2))
    dx = (scale * inverse) * (dy - (d_bias + normal * d_scale) / n)
    return dx, d_scale, d_bias


batch_norm.defvjp(batch_norm_forward, batch_norm_backward)


class PReLU(nnx.Module):
    """x where it is positive, else its product with a learned slope; at 0 the slope's gradient."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25, *, rngs: nnx.Rngs) -> None:
        self.negative_slope = nnx.Param(jnp.full(num_parameters, init))

    def __call__(self, x: jax.Array) -> jax.Array:
        return prelu(x, self.negative_slope[...])


@jax.jit
def prelu(x: jax.Array, slope: jax.Array) -> jax.Array:
    return jnp.where(x > 0, x, slope * x)


class ReLU(nnx.Module):
    """x where it is positive, else 0."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        pass

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x)


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
        """(N, H, W, C) to (N, H', W', C), and where each stood: y * W + x, int32, as PyTorch's.

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


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def max_pool(
    x: jax.Array, kernel_size: int, stride: int, padding: int, size: Pair
) -> tuple[jax.Array, jax.Array]:
    (rows, columns), width, s = size, x.shape[2], stride
    corner = lax.broadcasted_iota(jnp.int32, (rows, columns, 1), 0) * (s * width)
    corner += lax.broadcasted_iota(jnp.int32, (rows, columns, 1), 1) * s
    rim = (padding, padding)
    x = jnp.pad(x, ((0, 0), rim, rim, (0, 0)), constant_values=-jnp.inf)
    best, indices = x[:, : s * (rows - 1) + 1 : s, : s * (columns - 1) + 1 : s], corner
    for i, j in itertools.product(range(kernel_size), range(kernel_size)):
        value = x[:, i : i + s * (rows - 1) + 1 : s, j : j + s * (columns - 1) + 1 : s]
        better = (value > best) | jnp.isnan(value)  # not >=: the first of equals stays
        best = jnp.where(better, value, best)
        indices = jnp.where(better, corner + (i * width + j), indices)
    return best, jnp.broadcast_to(indices, best.shape)


class MaxUnpool2d(nnx.Module):
    """Puts values back where `MaxPool2d` of the same window and stride found them, zeros elsewhere.

    No scatter: each output pixel looks whether its window's index is its own.
    """

    def __init__(self, kernel_size: int, stride: int, *, rngs: nnx.Rngs) -> None:
        if kernel_size != stride:
            raise NotImplementedError("unpooling of windows that overlap or leave gaps")
        self.stride = stride

    def __call__(self, x: jax.Array, indices: jax.Array, output_size: Pair) -> jax.Array:
        """(N, H, W, C) to (N, H', W', C).

        Args:
            x: The values.
            indices: Of the same shape: y * W' + x of each.
            output_size: (H', W'), the size before pooling.
        """
        return max_unpool(x, indices, self.stride, output_size)


@functools.partial(jax.jit, static_argnums=(2, 3))
def max_unpool(x: jax.Array, indices: jax.Array, stride: int, size: Pair) -> jax.Array:
    (n, h, w, c), s, (height, width) = x.shape, stride, size

    def spread(a: jax.Array, fill: int) -> jax.Array:
        a = jnp.broadcast_to(a[:, :, None, :, None], (n, h, s, w, s, c)).reshape(n, h * s, w * s, c)
        rest = ((0, 0), (0, height - h * s), (0, width - w * s), (0, 0))
        return jnp.pad(a, rest, constant_values=fill)

    here = lax.broadcasted_iota(jnp.int32, (height, width, 1), 0) * width
    here += lax.broadcasted_iota(jnp.int32, (height, width, 1), 1)
    return jnp.where(spread(indices, -1) == here, spread(x, 0), 0)


class Dropout2d(nnx.Module):
    """Channel dropout that is told which channels to drop; it draws nothing itself.

    Args:
        p: Probability of dropping a channel.
        rngs: Not used; every layer takes it.
    """

    def __init__(self, p: float, *, rngs: nnx.Rngs) -> None:
        self.p = p
        self.deterministic = False  # `train()` and `eval()` of the network set it

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Drop channels in train mode, pass `x` on in eval mode.

        Args:
            x: (N, H, W, C).
            mask: (N, C), true where a channel is kept; not read in eval mode or where p is 0.

        Raises:
            ValueError: Train mode, p above 0 and no mask.
        """
        if self.deterministic or self.p == 0.0:
            return x
        if mask is None:
            raise ValueError(f"dropout with p={self.p} in train mode needs a mask, got None")
        return x * (mask.astype(x.dtype) / (1.0 - self.p))[:, None, None, :]


class Sequential(nnx.Module):
    """Layers one after the other, named 0, 1, 2, ... as in PyTorch."""

    def __init__(self, *layers: nnx.Module) -> None:
        self.length = len(layers)
        for i, layer in enumerate(layers):
            setattr(self, str(i), layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.length):
            x = getattr(self, str(i))(x)
        return x


def uniform(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> jax.Array:
    """PyTorch's default: U(-b, b), b = 1 / sqrt(fan_in).

    Drawn in blocks of one size: XLA's CPU backend takes half a second to compile a draw of each
    new shape, 20 s for ENet.
    """
    bound, size, block = 1 / math.sqrt(fan_in), math.prod(shape), 1 << 14
    keys = jax.random.split(rngs.params(), -(-size // block))
    flat = [jax.random.uniform(key, (block,), minval=-bound, maxval=bound) for key in keys]
    return jnp.concatenate(flat)[:size].reshape(shape)
