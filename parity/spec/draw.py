"""All random numbers of the project, drawn by a counter-based generator.

Draws are keyed by their purpose, so they depend neither on the order in which they are made nor on
the framework that uses them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

import numpy as np

from parity.spec.models import Config
from parity.spec.tensors import Tensor, tensors


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """Return an independent Philox generator for one purpose.

    Args:
        seed: The run's seed.
        purpose: What is drawn, such as `dropout/regular1_1`.
        *counters: Up to three numbers, such as epoch, step and sample.

    Raises:
        ValueError: More than three counters.
    """
    if len(counters) > 3:
        raise ValueError(f"{len(counters)} counters, expected at most 3")
    return np.random.Generator(np.random.Philox(key=_key(seed, purpose), counter=_words(counters)))


def _key(seed: int, purpose: str) -> np.ndarray:
    """Return Philox's key for one purpose in one run: two 64-bit words."""
    return np.frombuffer(hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:16], np.uint64)


def _words(counters: Sequence[int]) -> np.ndarray:
    """Return Philox's counter, whose lowest word starts at 0, as Philox itself increments it."""
    return np.array([0, *counters, 0, 0, 0][:4], np.uint64)


def weights(config: Config, seed: int) -> dict[str, np.ndarray]:
    """Draw weights that reveal faults: no statistic is at its default, no two slopes are equal.

    Values are float32 numbers, so that a check in float64 and one in float32 start alike.

    Returns:
        Published key -> array of PyTorch's shape; float32, counters int64.
    """
    return {key: _tensor(spec, seed, key) for key, spec in tensors(config).items()}


def _tensor(spec: Tensor, seed: int, key: str) -> np.ndarray:
    rng = generator(seed, f"weights/{key}")
    if spec.kind == "count":
        return rng.integers(1, 1000, spec.shape)
    if spec.kind in ("bias", "mean", "bare"):
        values = rng.normal(0.0, 0.1, spec.shape)
    elif spec.kind in ("scale", "var"):
        values = rng.uniform(0.5, 1.5, spec.shape)
    elif spec.kind == "slope":
        values = rng.uniform(0.05, 0.45, spec.shape)
    else:  # He et al. 2015, over the inputs of one output
        fan_in = np.prod(spec.shape[1:]) if spec.kind != "conv_transpose" else spec.shape[0]
        values = rng.normal(0.0, np.sqrt(2.0 / fan_in), spec.shape)
    return np.asarray(values, np.float32)


def dropout_masks(
    config: Config,
    size: tuple[int, ...],
    seed: int,
    epoch: int,
    step: int,
    samples: Iterable[int],
) -> dict[str, np.ndarray]:
    """Draw the dropout masks of one training step.

    Args:
        config: The network's configuration, with the sites and probabilities of dropout.
        size: Size of the inputs; see `parity.spec.models.Config.check_size`.
        seed: The run's seed.
        epoch: Counted from 0.
        step: Step of the epoch, counted from 0.
        samples: The samples' indices in the data set, so that a sample's mask does not depend on
            the device.

    Returns:
        Site -> (N, C) or (N, H', W', C) bool, true where the channel or element is kept.
    """
    keys = [(epoch, step, sample) for sample in samples]
    return {
        site: kept(p, shape, seed, f"dropout/{site}", keys)
        for site, (p, shape) in config.dropout_sites(*size).items()
    }


def kept(
    p: float,
    shape: tuple[int, ...],
    seed: int,
    purpose: str,
    counters: Sequence[tuple[int, ...]],
) -> np.ndarray:
    """Draw masks whose elements are independently true with probability 1 - p.

    A step may need hundreds of millions of elements, so each uses 16 bits of the raw stream, which
    NumPy promises not to change; once in 65,536 these do not suffice, and a number of more bits is
    drawn.

    Args:
        p: Probability of false, in [0, 1).
        shape: Shape of a mask.
        seed: The run's seed.
        purpose: What is drawn; see `generator`.
        counters: The counters of each mask; see `generator`.

    Returns:
        (masks, *shape) bool.
    """
    count, (whole, rest) = math.prod(shape), divmod(p * 65536, 1)
    masks = np.empty((len(counters), count), bool)
    stream, key = np.random.Philox(0), _key(seed, purpose)
    for mask, numbers in zip(masks, counters, strict=True):
        _turn(stream, key, _words(numbers))
        raw = stream.random_raw(-(-count // 4))
        bits = raw.astype("<u8", copy=False).view("<u2")[:count]
        np.greater(bits, np.uint16(whole), out=mask)
        undecided = np.flatnonzero(bits == np.uint16(whole))
        if undecided.size:
            rng = generator(seed, f"{purpose}/undecided", *numbers)
            mask[undecided] = rng.random(undecided.size) >= rest
    return masks.reshape(len(counters), *shape)


def _turn(stream: np.random.Philox, key: np.ndarray, counter: np.ndarray) -> None:
    """Make of a Philox what a new one would be, in a fifth of the time."""
    stream.state = {
        "bit_generator": "Philox",
        "state": {"counter": counter, "key": key},
        "buffer": np.zeros(4, np.uint64),
        "buffer_pos": 4,
        "has_uint32": 0,
        "uinteger": 0,
    }
