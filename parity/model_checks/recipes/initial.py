"""L4: statistical tests of initial weights' distributions; both sides hold equal draws.

A sample is compared with the distribution that PyTorch documents, by the largest distance of its
empirical distribution from that one (Kolmogorov). Of n numbers it exceeds sqrt(ln(2 / a) / (2 n))
with probability a at most (Dvoretzky, Kiefer and Wolfowitz 1956; Massart 1990), whatever the
distribution: that is the limit. Tensors that are drawn alike are one sample.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from flax import nnx

import jax_impl.models
import jax_impl.state
import torch_impl.models
import torch_impl.state
from parity.ladder.evidence import Draws
from parity.ladder.laws import Law
from parity.report.quantity import Kind, Quantity
from parity.report.report import Check
from parity.spec.initial import DEVIATIONS, initial
from parity.spec.models import Config
from parity.spec.tensors import Tensor, tensors
from weights_convert import to_jax, to_torch

Arrays = Mapping[str, np.ndarray]

CONSTANT = {"scale": 1.0, "var": 1.0, "mean": 0.0, "slope": 0.25, "count": 0.0}
# What MindSpore's E-NET leaves to `nn.Conv2d`: the last 1x1 of a block that changes the size.
NORMAL = re.compile(r"(down|up)sample\d_\d\.ext_conv[23]\.0\.weight")


def law(specs: Mapping[str, Tensor], key: str, rule: str) -> Law:
    """Return a tensor's distribution by a rule of `parity.spec.initial`, with PyTorch's fans.

    Args:
        specs: The network's tensors.
        key: The tensor's published key.
        rule: `torch`, `xavier` or `he-fan-out`.
    """
    spec = specs[key]
    if spec.kind in CONSTANT:
        return Law("constant", CONSTANT[spec.kind])
    if spec.kind in DEVIATIONS:
        return Law("normal", DEVIATIONS[spec.kind])
    weight = specs.get(f"{key.rpartition('.')[0]}.weight", spec)
    if spec.kind == "bias" and (weight.kind == "scale" or rule != "torch"):
        return Law("constant", 0.0)
    fans = torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(weight.shape, device="meta"))
    if rule == "xavier" and NORMAL.fullmatch(key) and weight.shape[2:] == (1, 1):
        return Law("normal", 0.01)
    if rule == "xavier":
        return Law("uniform", math.sqrt(6 / sum(fans)))
    if rule == "he-fan-out" and weight.kind == "conv":
        return Law("normal", math.sqrt(2 / fans[1]))
    return Law("uniform", 1 / math.sqrt(fans[0]))


def checks(config: Config, rule: str, seed: int = 0) -> Iterator[tuple[Check, Draws]]:
    """Check all initial weights; yield each check with its evidence.

    Args:
        config: The network's configuration.
        rule: The recipe's initialisation rule.
        seed: Seed of the draws.
    """
    for name, arrays in made(config, seed).items():
        yield from judged(config, arrays, "torch", f"own of {name}")
    drawn = initial(config, rule, seed)
    yield from judged(config, drawn, rule, "drawn")
    yield from ((check, NO_DRAWS) for check in same_bits(config, drawn))


def made(config: Config, seed: int) -> dict[str, Arrays]:
    """Side -> what its own layers are initialised with, by published names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        theirs = torch_impl.models.NETWORKS[config.family](config)
    ours = jax_impl.models.NETWORKS[config.family](config, rngs=nnx.Rngs(seed))
    return {
        "torch": torch_impl.state.state(theirs),
        "jax": to_torch(config, jax_impl.state.state(ours)),
    }


def judged(config: Config, arrays: Arrays, rule: str, origin: str) -> Iterator[tuple[Check, Draws]]:
    """Yield one check for all tensors of one distribution, which names the furthest off."""
    specs = tensors(config)
    groups: dict[tuple[str, Law], list[str]] = {}
    for key, spec in specs.items():
        groups.setdefault((spec.kind, law(specs, key, rule)), []).append(key)
    found = [_judged(expected, keys, arrays, origin) for (_, expected), keys in groups.items()]
    for (kind, expected), (check, unsound) in zip(groups, found, strict=True):
        weight = specs.get(f"{check.layer}.weight", specs[unsound[0]])
        # What else of its kind is unsound, too, may tell how all of it was drawn.
        others = [
            keys for (k, _), (c, keys) in zip(groups, found, strict=True) if k == kind and not c.ok
        ]
        every = dict.fromkeys([*unsound, *(key for keys in others for key in keys)])
        samples = tuple((specs[key].shape, np.asarray(arrays[key])) for key in every)
        values = np.asarray(arrays[unsound[0]])
        yield check, Draws(kind, weight.shape, values, str(expected), samples)


def _judged(
    expected: Law, keys: Sequence[str], arrays: Arrays, origin: str
) -> tuple[Check, list[str]]:
    """Check the tensors of one distribution; return those that it is about, furthest off first."""
    sample = np.concatenate([np.ravel(arrays[key]) for key in keys])
    worst = max(keys, key=lambda key: _excess(expected, arrays[key]))
    layer, _, leaf = worst.rpartition(".")
    unsound = [worst, *(key for key in keys if key != worst)]
    error, limit = expected.distance(sample), expected.limit(sample.size)
    alone = expected.distance(arrays[worst]), expected.limit(arrays[worst].size)
    if alone[0] - alone[1] > error - limit:  # one among many that are sound
        error, limit = alone
        unsound = [worst]
    quantity = Quantity(Kind.INITIAL, leaf, detail=f"{origin}, of {expected}")
    return Check("L4", "structure", layer, layer, quantity, error, limit), unsound


def same_bits(config: Config, drawn: Arrays) -> Iterator[Check]:
    """Check that each side holds the weights drawn for both."""
    sides: dict[str, Callable[[], Arrays]] = {
        "torch": lambda: torch_impl.state.state(torch_impl.state.build(config, drawn)),
        "jax": lambda: to_torch(
            config, jax_impl.state.state(jax_impl.state.build(config, to_jax(config, drawn)))
        ),
    }
    for name, held in sides.items():
        found = held()
        other = [key for key in drawn if not _same(found.get(key), drawn[key])]
        layer, _, leaf = (other or [next(iter(drawn))])[0].rpartition(".")
        note = f"{len(other)} tensors are not what was drawn" if other else ""
        error = math.inf if other else 0.0
        quantity = Quantity(Kind.INITIAL, leaf, detail=f"held by {name}")
        yield Check("L4", "structure", layer, layer, quantity, error, 0.0, note=note)


NO_DRAWS = Draws("", (), np.zeros(0), "")


def _excess(expected: Law, array: np.ndarray) -> float:
    return expected.distance(np.ravel(array)) - expected.limit(array.size)


def _same(found: np.ndarray | None, drawn: np.ndarray) -> bool:
    return found is not None and found.dtype == drawn.dtype and np.array_equal(found, drawn)
