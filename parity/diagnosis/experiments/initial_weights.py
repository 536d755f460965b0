"""Experiments on initial weights: by which known initialiser a sample was drawn.

A proof takes more than a law that fits: every other known law must be rejected, each with an error
probability of 1e-9, and the sample must be large enough to tell its scale. Else nothing is said.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments.engine import Proof
from parity.ladder.evidence import Draws
from parity.ladder.laws import ALPHA, Law

WEIGHTS = ("conv", "conv_transpose", "linear")
LEAST = (
    2000  # numbers: of so many the scale of a uniform law is known to 1 %, of a normal one to 10
)
LOG_ALPHA = math.log(ALPHA)
SIGMAS = 6.2  # a normal number is further from its mean with probability 1e-9 at most
CUT = 0.87962566103423978  # the standard deviation of N(0, 1) cut at two of its own
SAME = 1e-9  # the relative difference of two scales that are the same
BY_FAN = {  # gain and fan -> whose initialiser it is
    (1 / 3, "fan_in"): "PyTorch's default",
    (1 / 3, "fan_out"): "PyTorch's default with fan_out for fan_in",
    (1.0, "fan_in"): "LeCun's",
    (1.0, "fan_out"): "LeCun's with fan_out for fan_in",
    (1.0, "fan_avg"): "Glorot's",
    (2.0, "fan_in"): "He's",
    (2.0, "fan_out"): "He's of fan_out",
    (2.0, "fan_avg"): "He's of both fans' mean",
}
FIXED = (0.01, 0.02, 0.05)  # standard deviations, or bounds, that depend on no shape


@dataclasses.dataclass(frozen=True)
class Initialiser:
    """A known way to draw weights.

    Attributes:
        name: Whose it is, and its variance.
        laws: The law of each tensor of a sample.
    """

    name: str
    laws: tuple[Law, ...]

    def fits(self, arrays: Sequence[np.ndarray]) -> bool:
        """Return whether the sample may be drawn by it: its shape, its ends and its scale."""
        kind = self.laws[0].kind
        scaled = [np.ravel(a) / law.number for a, law in zip(arrays, self.laws, strict=True)]
        x = np.concatenate(scaled).astype(np.float64)
        unit, n = Law(kind, 1.0), len(x)
        if unit.distance(x) > unit.limit(n):
            return False
        furthest = float(np.abs(x).max())
        if kind == "uniform":  # the largest of n is below 1 - d with probability (1 - d)^n
            return 1 + LOG_ALPHA / n <= furthest <= 1 + 1e-6
        if kind == "truncated" and furthest > 2 + 1e-6:
            return False
        if kind == "normal" and not ALPHA <= n * math.erfc(furthest / math.sqrt(2)) <= -LOG_ALPHA:
            return False  # further out than n numbers get, or nearer than the furthest of n is
        deviation = CUT if kind == "truncated" else 1.0
        return abs(float(x.std()) / deviation - 1) <= SIGMAS / math.sqrt(2 * n)

    def same(self, other: Initialiser) -> bool:
        """Return whether another one draws these tensors in the same way."""
        return all(
            a.kind == b.kind and math.isclose(a.number, b.number, rel_tol=SAME)
            for a, b in zip(self.laws, other.laws, strict=True)
        )


def proofs(draws: Draws) -> list[Proof]:
    """By which initialiser the weights were drawn, if only one that is known fits."""
    if draws.kind not in WEIGHTS or not draws.samples:
        return []
    shapes, arrays = zip(*draws.samples, strict=True)
    count = sum(a.size for a in arrays)
    if count < LEAST:
        return []
    known = list(initialisers(shapes))
    found = [one for one in known if one.fits(arrays)]
    if not found or not all(one.same(found[0]) for one in found):
        return []
    if str(found[0].laws[0]) == draws.law:  # what is unsound is not told apart from the rest
        return []
    others = len(known) - len(found)
    return [
        Proof(
            Fault.INITIAL_WEIGHTS,
            f"weights drawn from {one.laws[0]}, {one.name}, instead of {draws.law}"
            f" ({count} values; each of {others} other initialisers is ruled out)",
        )
        for one in found
    ]


def initialisers(shapes: Sequence[tuple[int, ...]]) -> Iterator[Initialiser]:
    """Yield every known initialiser of weights of these shapes, PyTorch's."""
    fans = [_fans(shape) for shape in shapes]
    for (gain, fan), name in BY_FAN.items():
        deviations = [math.sqrt(gain / each[fan]) for each in fans]
        said = f"{name}: variance {'1/3' if gain < 1 else f'{gain:g}'} / {fan}"
        yield _made(said, "uniform", [math.sqrt(3) * d for d in deviations])
        if gain >= 1:
            yield _made(said, "normal", deviations)
            yield _made(said, "truncated", [d / CUT for d in deviations])
    for number in FIXED:
        for kind in ("uniform", "normal", "truncated"):
            yield _made("whatever the shape", kind, [number] * len(shapes))


def _made(name: str, kind: str, numbers: Sequence[float]) -> Initialiser:
    return Initialiser(name, tuple(Law(kind, number) for number in numbers))


def _fans(shape: tuple[int, ...]) -> dict[str, float]:
    """Fans as PyTorch counts them."""
    fan = torch.nn.init._calculate_fan_in_and_fan_out
    into, out = fan(torch.empty(shape, device="meta"))
    return {"fan_in": into, "fan_out": out, "fan_avg": (into + out) / 2}
