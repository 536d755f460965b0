"""ResNets in Flax NNX whose names and nesting owe nothing to torchvision's."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx


class Norm(nnx.BatchNorm):
    """Flax's batch norm, which stores the biased variance, made to store the unbiased one."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(width, momentum=0.9, epsilon=1e-5, use_fast_variance=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override] # Flax's has a mask
        before, n = self.var[...], x.size // x.shape[-1]
        y = super().__call__(x)
        if not self.use_running_average:
            batch = (self.var[...] - 0.9 * before) * (n / (n - 1))
            self.var[...] = 0.9 * before + batch
        return y


def conv(i: int, o: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    pad = size // 2
    return nnx.Conv(
        i, o, (size, size), stride, padding=((pad, pad), (pad, pad)), use_bias=False, rngs=rngs
    )


class Unit(nnx.Module):
    """Two convolutions and a way past them."""

    def __init__(self, i: int, o: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.first = conv(i, o, 3, stride, rngs)
        self.first_norm = Norm(o, rngs=rngs)
        self.second = conv(o, o, 3, 1, rngs)
        self.second_norm = Norm(o, rngs=rngs)
        self.skip = nnx.data(None)
        if i != o:
            self.skip = nnx.Sequential(conv(i, o, 1, stride, rngs), Norm(o, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return jax.nn.relu(y + (x if self.skip is None else self.skip(x)))


class Bottleneck(nnx.Module):
    """Three convolutions, of a quarter of the channels, and a way past them."""

    def __init__(self, i: int, o: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.reduce = conv(i, o // 4, 1, 1, rngs)
        self.reduce_norm = Norm(o // 4, rngs=rngs)
        self.spatial = conv(o // 4, o // 4, 3, stride, rngs)
        self.spatial_norm = Norm(o // 4, rngs=rngs)
        self.expand = conv(o // 4, o, 1, 1, rngs)
        self.expand_norm = Norm(o, rngs=rngs)
        self.skip = nnx.data(None)
        if i != o:
            self.skip = nnx.Sequential(conv(i, o, 1, stride, rngs), Norm(o, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.reduce_norm(self.reduce(x)))
        y = jax.nn.relu(self.spatial_norm(self.spatial(y)))
        y = self.expand_norm(self.expand(y))
        return jax.nn.relu(y + (x if self.skip is None else self.skip(x)))


class Stem(nnx.Module):
    """A quarter of the height and width."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.project = conv(3, 64, 7, 2, rngs)
        self.normalise = Norm(64, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.normalise(self.project(x)))
        return nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


# Depth -> the unit, the channels of the first stage, the units of each stage. Of 10 and 14 layers
# are those in which no unit comes twice.
KINDS: dict[int, tuple[type[Unit | Bottleneck], int, tuple[int, ...]]] = {
    10: (Unit, 64, (1, 1, 1, 1)),
    14: (Bottleneck, 256, (1, 1, 1, 1)),
    18: (Unit, 64, (2, 2, 2, 2)),
    50: (Bottleneck, 256, (3, 4, 6, 3)),
    101: (Bottleneck, 256, (3, 4, 23, 3)),
}


class ResNet(nnx.Module):
    """Images (N, H, W, 3) to 1000 logits; all units in one flat list.

    Args:
        depth: A key of `KINDS`.
        rngs: Draws the weights.
    """

    def __init__(self, depth: int = 18, *, rngs: nnx.Rngs) -> None:
        unit, width, counts = KINDS[depth]
        self.stem = Stem(rngs=rngs)
        self.units = nnx.List(unit(*each, rngs=rngs) for each in sizes(width, counts))
        self.classify = nnx.Linear(8 * width, 1000, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        for unit in self.units:
            x = unit(x)
        return self.classify(jnp.mean(x, axis=(1, 2)))


def sizes(width: int, counts: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """Input channels, output channels and stride of each unit."""
    before = 64
    for stage, count in enumerate(counts):
        for i in range(count):
            yield before, width << stage, 2 if stage and not i else 1
            before = width << stage
