"""Initial parameters, drawn once, so that both sides start with equal bits."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np

from parity.spec.draw import generator
from parity.spec.models import Config
from parity.spec.tensors import Tensor, tensors

# MindSpore's E-NET leaves these to `nn.Conv2d`, whose default is N(0, 0.01).
LEFT = re.compile(r"downsample\d_\d\.ext_conv3\.0\.weight|upsample\d_\d\.ext_conv2\.0\.weight")
DEVIATIONS = {"embedding": 1.0, "bare": 0.02}  # of normal distributions, whatever the rule
CONSTANT = {"scale": 1.0, "var": 1.0, "mean": 0.0, "slope": 0.25}


def initial(config: Config, rule: str, seed: int) -> dict[str, np.ndarray]:
    """Draw the weights and statistics of a new network.

    Rules, for the weights and biases of convolutions and fully connected layers; everything else is
    initialised as in PyTorch's and MindSpore's layers:

    - `torch`: PyTorch's default, U(-b, b) with b = 1 / sqrt(fan_in), biases like their weights. For
      a transposed convolution the fan is that of its outputs, as PyTorch counts it.
    - `xavier`: MindSpore's `XavierUniform`, U(-b, b) with b = sqrt(6 / (fan_in + fan_out)) (Glorot
      and Bengio 2010), biases 0; N(0, 0.01) where E-NET names no rule.
    - `he-fan-out`: N(0, sqrt(2 / fan_out)) for convolutions (He et al. 2015), fan_out the kernel's
      area times all outputs, in groups too; fully connected layers as `torch`, their biases 0.

    Args:
        config: The network's configuration.
        rule: One of `parity.spec.training.recipe.INITIALS`.
        seed: The run's seed.

    Returns:
        Published key -> array of PyTorch's shape; float32, counters int64.

    Raises:
        ValueError: Another rule.
    """
    if rule not in RULES:
        raise ValueError(f"initial is {rule!r}, expected one of {', '.join(RULES)}")
    specs = tensors(config)
    return {key: _tensor(specs, key, rule, seed) for key in specs}


def _tensor(specs: Mapping[str, Tensor], key: str, rule: str, seed: int) -> np.ndarray:
    spec, rng = specs[key], generator(seed, f"initial/{key}")
    if spec.kind == "count":
        return np.zeros(spec.shape, np.int64)
    if spec.kind in CONSTANT:
        return np.full(spec.shape, CONSTANT[spec.kind], np.float32)
    if spec.kind in DEVIATIONS:
        return rng.normal(0.0, DEVIATIONS[spec.kind], spec.shape).astype(np.float32)
    if spec.kind != "bias":
        return RULES[rule](rng, key, spec).astype(np.float32)
    weight = specs[f"{key.rpartition('.')[0]}.weight"]
    if rule != "torch" or weight.kind == "scale":
        return np.zeros(spec.shape, np.float32)
    return _uniform(rng, _lecun(weight), spec.shape).astype(np.float32)


def _torch(rng: np.random.Generator, key: str, weight: Tensor) -> np.ndarray:
    return _uniform(rng, _lecun(weight), weight.shape)


def _xavier(rng: np.random.Generator, key: str, weight: Tensor) -> np.ndarray:
    if LEFT.fullmatch(key):
        return rng.normal(0.0, 0.01, weight.shape)
    area = math.prod(weight.shape[2:])
    return _uniform(rng, math.sqrt(6 / (sum(weight.shape[:2]) * area)), weight.shape)


def _he_fan_out(rng: np.random.Generator, key: str, weight: Tensor) -> np.ndarray:
    if weight.kind == "linear":
        return _torch(rng, key, weight)
    outputs = weight.shape[1 if weight.kind == "conv_transpose" else 0]
    deviation = math.sqrt(2 / (outputs * math.prod(weight.shape[2:])))
    return rng.normal(0.0, deviation, weight.shape)


def _lecun(weight: Tensor) -> float:
    """Return PyTorch's bound; its fan_in is the product of all axes but the first."""
    return 1 / math.sqrt(math.prod(weight.shape[1:]))


def _uniform(rng: np.random.Generator, bound: float, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(-bound, bound, shape)


RULES = {"torch": _torch, "xavier": _xavier, "he-fan-out": _he_fan_out}
