"""Finding the random numbers that a JAX network draws by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import parity

OWN = str(Path(parity.__file__).parent)

# The operations that make random bits; those on keys alone draw nothing.
DRAWING = {"random_bits", "rng_bit_generator", "rng_uniform", "threefry2x32", "random_gamma"}


def drawn(jaxpr: Any) -> list[str]:
    """Return where a program draws: source lines, or names of operations where there are none."""
    return list(dict.fromkeys(_places(jaxpr.jaxpr)))


def _places(jaxpr: Any, around: str = "") -> Iterator[str]:
    for equation in jaxpr.eqns:
        # What a library has compiled was traced once, for whoever called it first.
        line = _line(equation) or around
        if equation.primitive.name in DRAWING:
            yield line or str(equation.primitive.name)
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _places(inner, line)


def _line(equation: Any) -> str:
    """The author's line that an operation comes from, `file.py:12`; empty if there is none."""
    traceback = equation.source_info.traceback
    for frame in traceback.frames if traceback is not None else ():
        if "site-packages" not in frame.file_name and OWN not in frame.file_name:
            return f"{frame.file_name.rpartition('/')[2]}:{frame.line_num}"
    return ""
