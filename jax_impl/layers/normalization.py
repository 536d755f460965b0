"""Batch normalisation with PyTorch's statistics, by one device's batch or by all devices'."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx

DEVICES = "devices"  # the axis over which a network is mapped


class BatchNorm2d(nnx.Module):
    """Batch normalisation over N, H and W; stores the unbiased variance, as PyTorch does.

    It computes in the wider of its parameters' and its input's precision, and gives the input's.
    With `sync`, set by `synchronize`, the batch is that of all devices along the axis `DEVICES`.

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
        self.sync = False
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
        axis = DEVICES if self.sync else None
        n = count(x, axis)
        if n == 1:
            raise ValueError(f"batch norm in train mode needs two values a channel, got {x.shape}")
        y, mean, var = batch_norm(x, self.scale[...], self.bias[...], self.eps, axis)
        m = self.momentum
        store(self.mean, (1 - m) * self.mean[...] + m * mean)
        store(self.var, (1 - m) * self.var[...] + m * var * (n / (n - 1)))
        store(self.num_batches_tracked, self.num_batches_tracked[...] + 1)
        return y


def store(variable: nnx.Variable, value: jax.Array) -> None:
    """What `variable[...] = value` does, which takes a second more to trace for ENet.

    For that, Flax compares shardings; while JAX traces there are none, and to say so it looks
    through all that was traced before.
    """
    variable.set_value(value.astype(variable[...].dtype))


@functools.partial(jax.jit, static_argnums=5)
def normalize(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> jax.Array:
    return ((x - mean) * (scale / jnp.sqrt(var + eps)) + bias).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
@functools.partial(jax.jit, static_argnums=(3, 4))
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, axis: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise by the batch: y, and its mean and biased variance, which carry no gradient.

    The gradient is written out (Ioffe and Szegedy 2015, section 3): the derived one compiles and
    runs half as long again.
    """
    wide = x.astype(jnp.promote_types(x.dtype, scale.dtype))
    mean = over(axis, wide.mean(axis=(0, 1, 2)))
    # Two passes: E[x^2] - E[x]^2 cancels where the mean is large (Flax's fast variance).
    var = over(axis, jnp.square(wide - mean).mean(axis=(0, 1, 2)))
    return normalize(x, mean, var, scale, bias, eps), mean, var


def batch_norm_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, axis: str | None
) -> tuple:
    y, mean, var = batch_norm(x, scale, bias, eps, axis)
    return (y, mean, var), (x, scale, mean, var)


@functools.partial(jax.jit, static_argnums=(0, 1))
def batch_norm_backward(eps: float, axis: str | None, saved: tuple, cotangents: tuple) -> tuple:
    (x, scale, mean, var), dy, n = saved, cotangents[0], saved[0].size // saved[0].shape[-1]
    dy = dy.astype(jnp.promote_types(dy.dtype, scale.dtype))
    inverse = 1 / jnp.sqrt(var + eps)
    normal = (x - mean) * inverse
    d_scale, d_bias = (dy * normal).sum(axis=(0, 1, 2)), dy.sum(axis=(0, 1, 2))
    # Over all devices, whose parts are equal: the gradient of the sum of their losses.
    dx = (scale * inverse) * (dy - (over(axis, d_bias) + normal * over(axis, d_scale)) / n)
    return dx.astype(x.dtype), d_scale, d_bias


batch_norm.defvjp(batch_norm_forward, batch_norm_backward)


def over(axis: str | None, part: jax.Array) -> jax.Array:
    """The mean over all devices, if there is an axis of them."""
    return part if axis is None else jax.lax.pmean(part, axis)


def count(x: jax.Array, axis: str | None) -> int:
    """Values of a channel, on all devices."""
    return x.size // x.shape[-1] * (1 if axis is None else jax.lax.axis_size(axis))


def synchronize(model: nnx.Module) -> None:
    """Let the batch norms of a network normalise by the batch of all devices."""
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, BatchNorm2d):
            layer.sync = True
