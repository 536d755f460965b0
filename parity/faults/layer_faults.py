"""Faulty layers, as classes that override a correct layer's class.

`inject_class(layer, fault)` changes a layer of the port in place: its parameters and settings stay.
They are modules themselves, since Python lets an object change its class only where layouts agree.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jax_impl.layers.convolution import pair
from jax_impl.ops.convolution import conv_transpose
from jax_impl.ops.normalization import normalize
from jax_impl.ops.pooling import max_pool


def inject_class(layer: nnx.Module, fault: type) -> None:
    """Put a fault before a layer's class."""
    layer.__class__ = with_fault(type(layer), fault)


@functools.cache
def with_fault(cls: type, fault: type) -> type:
    return type(cls)(fault.__name__ + cls.__name__, (fault, cls), {})


class BiasedVariance(nnx.Module):
    """Stores the batch's biased variance, as Flax does."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        before, n, m = self.var[...], x.size // x.shape[-1], self.momentum
        y = super().__call__(x)
        if not self.use_running_average:
            batch = (self.var[...] - (1 - m) * before) * ((n - 1) / n)
            self.var[...] = (1 - m) * before + batch
        return y


class FastVariance(nnx.Module):
    """Takes the variance as E[x^2] - E[x]^2, as Flax does by default."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        if self.use_running_average:
            return super().__call__(x)
        n, m = x.size // x.shape[-1], self.momentum
        mean = x.mean(axis=(0, 1, 2))
        var = jnp.maximum(jnp.square(x).mean(axis=(0, 1, 2)) - jnp.square(mean), 0)
        self.mean[...] = (1 - m) * self.mean[...] + m * mean
        self.var[...] = (1 - m) * self.var[...] + m * var * (n / (n - 1))
        self.num_batches_tracked[...] += 1
        return normalize(x, mean, var, self.scale[...], self.bias[...], self.eps)


class AlwaysTrains(nnx.Module):
    """Normalises by the batch in eval mode too."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        mode, self.use_running_average = self.use_running_average, False
        y = super().__call__(x)
        self.use_running_average = mode
        return y


class SameConv(nnx.Module):
    """Pads as TensorFlow's SAME: if the padding is odd, the larger half is at the end."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        y = lax.conv_general_dilated(
            x,
            self.kernel[...],
            window_strides=self.stride,
            padding="SAME",
            rhs_dilation=self.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        return y if self.bias is None else y + self.bias[...]


class SamePool(nnx.Module):
    """Pads as TensorFlow's SAME."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        k, s = pair(self.kernel_size), pair(self.stride)
        low = jnp.array(-jnp.inf, x.dtype)
        return lax.reduce_window(x, low, lax.max, (1, *k, 1), (1, *s, 1), "SAME")


class CeilPool(nnx.Module):
    """Rounds the size up."""

    def __call__(self: Any, x: jax.Array) -> Any:
        k, s, p = self.kernel_size, self.stride, self.padding
        size = tuple(-(-(n + 2 * p - k) // s) + 1 for n in x.shape[1:3])
        size = tuple(
            o - ((o - 1) * s >= n + p) for o, n in zip(size, x.shape[1:3], strict=True)
        )  # a window that begins in the padding is dropped
        rim = (0, s)
        x_wide = jnp.pad(x, ((0, 0), rim, rim, (0, 0)), constant_values=-jnp.inf)
        best, at = max_pool(x_wide, k, s, p, size)
        wide = x_wide.shape[2]
        return (best, at // wide * x.shape[2] + at % wide) if self.return_indices else best


class TiesShared(nnx.Module):
    """Shares the gradient between equal maxima, as `jnp.max` does."""

    def __call__(self: Any, x: jax.Array) -> Any:
        sound = super().__call__(x)
        best, at = sound if self.return_indices else (sound, None)
        k, s, p = self.kernel_size, self.stride, self.padding
        rim = (p, p)
        x = jnp.pad(x, ((0, 0), rim, rim, (0, 0)), constant_values=-jnp.inf)
        rows, columns = best.shape[1:3]
        taps = [
            x[:, i : i + s * (rows - 1) + 1 : s, j : j + s * (columns - 1) + 1 : s]
            for i in range(k)
            for j in range(k)
        ]
        y = jnp.stack(taps).max(axis=0)
        return y if at is None else (y, at)


class IndicesNHWC(nnx.Module):
    """Says where maxima stood in a map flattened with its channels, as TensorFlow does."""

    def __call__(self: Any, x: jax.Array) -> Any:
        best, at = super().__call__(x)
        return best, at * x.shape[-1] + jnp.arange(x.shape[-1], dtype=at.dtype)


class UnpoolNHWC(nnx.Module):
    """Takes indices of one channel's map for those of a map flattened with its channels."""

    def __call__(self: Any, x: jax.Array, indices: jax.Array, output_size: Any) -> jax.Array:
        n, c = x.shape[0], x.shape[-1]
        flat = jnp.zeros((n, output_size[0] * output_size[1] * c), x.dtype)
        rows = jnp.arange(n)[:, None]
        flat = flat.at[rows, indices.reshape(n, -1)].add(x.reshape(n, -1))
        return flat.reshape(n, *output_size, c)


def reads_kernel(change: Callable[[jax.Array], jax.Array], name: str) -> type:
    """Return a fault that computes with a changed kernel; the stored one is sound."""

    class ReadsKernel(nnx.Module):
        """Computes with a changed kernel."""

        def __call__(self: Any, *args: Any) -> jax.Array:
            kernel = self.kernel[...]
            self.kernel.set_value(change(kernel))
            try:
                return super().__call__(*args)
            finally:
                self.kernel.set_value(kernel)

    ReadsKernel.__name__ = name
    return ReadsKernel


Flipped = reads_kernel(lambda k: k[::-1, ::-1], "Flipped")
Swapped = reads_kernel(lambda k: k.swapaxes(2, 3), "Swapped")
Depthwise = reads_kernel(
    lambda k: k.transpose(2, 3, 0, 1).reshape(k.shape), "Depthwise"
)  # (1, C, kh, kw) taken for (kh, kw, 1, C)


class WrongSide(nnx.Module):
    """Puts the output padding before the map."""

    def __call__(self: Any, x: jax.Array, output_size: Any = None) -> jax.Array:
        axes = zip(x.shape[1:3], self.kernel_size, self.stride, self.padding, strict=True)
        smallest = [(n - 1) * s - 2 * p + k for n, k, s, p in axes]
        size = tuple(output_size or smallest)
        before = tuple(p - (o - n) for p, o, n in zip(self.padding, size, smallest, strict=True))
        y = conv_transpose(x, self.kernel[...], self.stride, before, size)
        return y if self.bias is None else y + self.bias[...]


class Elementwise(nnx.Module):
    """Drops elements where channels are meant, as often."""

    def __call__(self: Any, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        if self.deterministic or self.p == 0.0:
            return x
        _, h, w, c = x.shape
        at = lax.iota(jnp.int32, h * w * c).reshape(h, w, c)
        assert mask is not None
        return x * mask[:, (at * 7 + at // c) % c].astype(x.dtype) / (1.0 - self.p)


class Channelwise(nnx.Module):
    """Drops channels where elements are meant, as often."""

    def __call__(self: Any, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        if mask is not None:
            mask = jnp.broadcast_to(mask[:, :1, :1], mask.shape)
        return super().__call__(x, mask)


class DropsTheKept(nnx.Module):
    """Keeps what is to be dropped, as where the keep probability is given for the other."""

    def __call__(self: Any, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        return super().__call__(x, None if mask is None else ~mask)


class NotRescaled(nnx.Module):
    """Leaves what it keeps as it is."""

    def __call__(self: Any, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        y = super().__call__(x, mask)
        return y if self.deterministic else y * (1.0 - self.p)


class TF32(nnx.Module):
    """Rounds float32 to TF32's 10 bits of mantissa before it multiplies."""

    def __call__(self: Any, x: jax.Array, *args: Any) -> jax.Array:
        if x.dtype != jnp.float32:
            return super().__call__(x, *args)
        kernel = self.kernel[...]
        self.kernel.set_value(lax.reduce_precision(kernel, 8, 10))
        try:
            return super().__call__(lax.reduce_precision(x, 8, 10), *args)
        finally:
            self.kernel.set_value(kernel)


class Single(nnx.Module):
    """Computes in float32, whatever it is fed, and returns that."""

    def __call__(self: Any, x: jax.Array, *args: Any) -> jax.Array:
        held = {
            n: getattr(self, n)[...] for n in ("kernel", "bias") if getattr(self, n) is not None
        }
        for name, value in held.items():
            getattr(self, name).set_value(value.astype(jnp.float32))
        try:
            return super().__call__(x.astype(jnp.float32), *args)
        finally:
            for name, value in held.items():
                getattr(self, name).set_value(value)


class SingleWithin(Single):
    """Computes in float32, and casts back."""

    def __call__(self: Any, x: jax.Array, *args: Any) -> jax.Array:
        return super().__call__(x, *args).astype(x.dtype)


class Antialiased(nnx.Module):
    """Resizes as `jax.image.resize` does by default."""

    def __call__(self: Any, x: jax.Array, size: tuple[int, int]) -> jax.Array:
        return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear", antialias=True)


class OtherNearest(nnx.Module):
    """Takes the pixel whose centre is nearest, where PyTorch rounds its corner's place down."""

    def __call__(self: Any, x: jax.Array, size: tuple[int, int]) -> jax.Array:
        return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "nearest")


class FixedWindows(nnx.Module):
    """Pools by windows of one size and stride, floor(in / out), where they shall adapt."""

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        rows, columns = pair(self.output_size)
        s = (x.shape[1] // rows, x.shape[2] // columns)
        k = (x.shape[1] - (rows - 1) * s[0], x.shape[2] - (columns - 1) * s[1])
        total = lax.reduce_window(
            x, jnp.zeros((), x.dtype), lax.add, (1, *k, 1), (1, *s, 1), "VALID"
        )
        return total / (k[0] * k[1])
