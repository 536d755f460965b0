"""Finding the random numbers that a JAX network draws by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from parity.capture.jaxprs import subjaxprs
from parity.capture.source_lines import line_of

# The operations that make random bits; those on keys alone draw nothing.
DRAWING = {"random_bits", "rng_bit_generator", "rng_uniform", "threefry2x32", "random_gamma"}


def drawn(jaxpr: Any) -> list[str]:
    """Return where a program draws: source lines, or names of operations where there are none."""
    return list(dict.fromkeys(_places(jaxpr.jaxpr)))


def _places(jaxpr: Any, around: str = "") -> Iterator[str]:
    for equation in jaxpr.eqns:
        # What a library has compiled was traced once, for whoever called it first.
        line = str(line_of(equation)) or around
        if equation.primitive.name in DRAWING:
            yield line or str(equation.primitive.name)
        for inner in subjaxprs(equation):
            yield from _places(inner, line)
