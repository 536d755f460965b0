"""Random small networks of every supported layer, on both sides: right ones, and with faults.

    python -m tests.random_networks --count 100
    python -m tests.random_networks --count 20 --faults 20

A right pair must pass, with no cause proved; faults injected in one must be found.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

import jax_impl.layers.normalization as ours
from parity import Port, check
from parity.faults.operations import campaign
from parity.ladder.weights import WeightMap
from parity.spec import draw

Rng = np.random.Generator
Pair = tuple[nn.Module, Any]  # the reference's block and the port's

ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], Callable[[jax.Array], jax.Array]]] = {
    "relu": (nn.ReLU, jax.nn.relu),
    "gelu": (nn.GELU, lambda x: jax.nn.gelu(x, approximate=False)),
    "gelu_tanh": (lambda: nn.GELU("tanh"), lambda x: jax.nn.gelu(x, approximate=True)),
    "silu": (nn.SiLU, jax.nn.silu),
    "tanh": (nn.Tanh, jnp.tanh),
    "sigmoid": (nn.Sigmoid, jax.nn.sigmoid),
    "leaky_relu": (lambda: nn.LeakyReLU(0.2), lambda x: jax.nn.leaky_relu(x, 0.2)),
    "elu": (nn.ELU, jax.nn.elu),
    "softplus": (nn.Softplus, jax.nn.softplus),
    "hardswish": (nn.Hardswish, jax.nn.hard_swish),
}
RNGS = nnx.Rngs(0)


class Call(nnx.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[jax.Array], jax.Array]) -> None:
        self.function = function

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.function(x)


class Chain(nnx.Module):
    """Layers one after the other; `residual` adds the input."""

    def __init__(self, layers: list[Any], residual: bool = False, remat: bool = False) -> None:
        self.layers = nnx.List(layers)
        self.residual = residual
        self.remat = remat

    def _run(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x)
        return x

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.checkpoint(self._run)(x) if self.remat else self._run(x)
        return x + y if self.residual else y


class Residual(nn.Module):
    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


class TorchAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(n, t, c))


class JaxAttention(nnx.Module):
    def __init__(self, width: int, heads: int) -> None:
        self.heads = heads
        self.qkv = nnx.Linear(width, 3 * width, rngs=RNGS)
        self.out = nnx.Linear(width, width, rngs=RNGS)

    def __call__(self, x: jax.Array) -> jax.Array:
        n, t, c = x.shape
        q, k, v = jnp.moveaxis(self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads), 2, 0)
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.reshape(n, t, c))


def activation(rng: Rng) -> Pair:
    made, function = ACTIVATIONS[str(rng.choice(list(ACTIVATIONS)))]
    return made(), Call(function)


def convolution(rng: Rng, width: int) -> Iterator[Pair]:
    k, d = int(rng.choice([1, 3])), int(rng.choice([1, 2]))
    groups = int(rng.choice([1, width]))
    padding = d * (k // 2)
    yield (
        nn.Conv2d(width, width, k, padding=padding, dilation=d, groups=groups),
        nnx.Conv(
            width,
            width,
            (k, k),
            padding=padding,
            kernel_dilation=(d, d),
            feature_group_count=groups,
            rngs=RNGS,
        ),
    )
    yield norm_of_images(rng, width)
    yield activation(rng)


def norm_of_images(rng: Rng, width: int) -> Pair:
    if rng.random() < 0.5:
        return nn.GroupNorm(2, width), nnx.GroupNorm(width, 2, epsilon=1e-5, rngs=RNGS)
    return nn.BatchNorm2d(width), ours.BatchNorm2d(width, rngs=RNGS)


def sequence(rng: Rng, width: int) -> Iterator[Pair]:
    if rng.random() < 0.5:
        yield nn.LayerNorm(width), nnx.LayerNorm(width, epsilon=1e-5, rngs=RNGS)
    else:
        yield nn.RMSNorm(width, eps=1e-5), nnx.RMSNorm(width, epsilon=1e-5, rngs=RNGS)
    if rng.random() < 0.5:
        yield TorchAttention(width, 2), JaxAttention(width, 2)
    else:
        yield nn.Linear(width, 2 * width), nnx.Linear(width, 2 * width, rngs=RNGS)
        yield activation(rng)
        yield nn.Linear(2 * width, width), nnx.Linear(2 * width, width, rngs=RNGS)


def block(rng: Rng, parts: list[Pair]) -> Pair:
    """Several layers, perhaps around a shortcut, perhaps computed again for the gradient."""
    torches, ports = nn.Sequential(*(a for a, _ in parts)), [b for _, b in parts]
    remat = bool(rng.random() < 0.3) and not any(isinstance(b, ours.BatchNorm2d) for b in ports)
    if rng.random() < 0.5:
        return Residual(torches), Chain(ports, residual=True, remat=remat)
    return torches, Chain(ports, remat=remat)


def pooling(rng: Rng) -> Pair:
    if rng.random() < 0.5:
        return nn.MaxPool2d(2), Call(lambda x: nnx.max_pool(x, (2, 2), (2, 2)))
    return nn.AvgPool2d(2), Call(lambda x: nnx.avg_pool(x, (2, 2), (2, 2)))


def network(seed: int) -> Port:
    """A random pair, right on both sides."""
    rng = draw.generator(seed, "networks")
    torch.manual_seed(seed)
    images, width = bool(rng.random() < 0.5), 4
    of: Callable[[Rng, int], Iterator[Pair]] = convolution if images else sequence
    pairs = [block(rng, list(of(rng, width))) for _ in range(int(rng.integers(1, 4)))]
    if images and rng.random() < 0.7:
        pairs.insert(int(rng.integers(len(pairs) + 1)), pooling(rng))
    reference, port = nn.Sequential(*(a for a, _ in pairs)), Chain([b for _, b in pairs])
    shape = (2, 8, 8, width) if images else (2, 5, width)
    return Port(reference, port, inputs=shape, weights=weights(reference, port), seed=seed)


# PyTorch's name of a tensor -> what the port's layers may call it.
LEAVES = {
    "weight": ("kernel", "scale", "weight"),
    "bias": ("bias",),
    "running_mean": ("mean", "running_mean"),
    "running_var": ("var", "running_var"),
    "num_batches_tracked": ("num_batches_tracked",),
}


def weights(reference: nn.Module, port: nnx.Module) -> WeightMap:
    """Pair the tensors: both sides hold the same layers, but for `layers` in a layer's name."""
    held = {_place(map(str, path)): (path, layer) for path, layer in nnx.iter_modules(port)}
    found: dict[str, Any] = {}
    for name, module in reference.named_modules():
        for key, value in module.state_dict().items():
            if "." in key:  # a layer's within it
                continue
            path, layer = held[_place(name.split("."))]
            leaf = next((n for n in LEAVES[key] if getattr(layer, n, None) is not None), None)
            if leaf:
                axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim)
                found[".".join(map(str, (*path, leaf)))] = (f"{name}.{key}", axes)
    return found


def _place(parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(part for part in parts if part != "layers")


def main(argv: list[str] | None = None) -> int:
    """Check random networks; exit status 1 if a right one fails, or a fault is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--faults", type=int, default=0, help="inject so many in each instead")
    args = parser.parse_args(argv)
    wrong = found = injected = 0
    for seed in range(args.first, args.first + args.count):
        if args.faults:
            power = campaign(network(seed), args.faults, seed)
            injected += len(power.outcomes) - power.count("equivalent")
            found += power.count("killed")
            for o in power.outcomes:
                if o.outcome == "survived":
                    print(f"seed {seed}: not found: {o.mutant}")
            wrong += not power.ok
            continue
        report = check(network(seed))
        if not report.ok or report.causes:
            wrong += 1
            print(f"seed {seed}: {report}")
    if args.faults:
        print(f"{found} of {injected} faults found in {args.count} networks")
    else:
        print(f"{args.count - wrong} of {args.count} right networks pass, {wrong} false alarms")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
