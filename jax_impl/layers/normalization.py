"""Norms of a token, and batch normalisation with PyTorch's statistics, over one or all devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jax_impl.ops.normalization import batch_norm, count, normalize
from jax_impl.ops.precision import wide
from jax_impl.ops.variables import store

DEVICES = "devices"  # the axis over which a network is mapped


class LayerNorm(nnx.Module):
    """Normalisation over the last axis, by mean and biased variance (Ba et al. 2016).

    It computes in its input's precision, half precision in float32.

    Args:
        num_features: Channels.
        eps: Added to the variance.
        rngs: Not used; every layer takes it.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, *, rngs: nnx.Rngs) -> None:
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(num_features))
        self.bias = nnx.Param(jnp.zeros(num_features))

    def __call__(self, x: jax.Array) -> jax.Array:
        centred = wide(x) - wide(x).mean(axis=-1, keepdims=True)
        var = jnp.square(centred).mean(axis=-1, keepdims=True)
        y = centred / jnp.sqrt(var + self.eps) * wide(self.scale[...]) + wide(self.bias[...])
        return y.astype(x.dtype)


class RMSNorm(nnx.Module):
    """Division by the root of the mean square over the last axis (Zhang and Sennrich 2019).

    It computes in its input's precision, half precision in float32.

    Args:
        num_features: Channels.
        eps: Added to the mean square.
        rngs: Not used; every layer takes it.
    """

    def __init__(self, num_features: int, eps: float = 1e-6, *, rngs: nnx.Rngs) -> None:
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(num_features))

    def __call__(self, x: jax.Array) -> jax.Array:
        mean_square = jnp.square(wide(x)).mean(axis=-1, keepdims=True)
        y = wide(x) / jnp.sqrt(mean_square + self.eps) * wide(self.scale[...])
        return y.astype(x.dtype)


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


def synchronize(model: nnx.Module) -> None:
    """Let the batch norms of a network normalise by the batch of all devices."""
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, BatchNorm2d):
            layer.sync = True
