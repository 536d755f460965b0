"""Compiling short-lived programs fast: see `parity.io.quick_compilation`."""

from __future__ import annotations

import functools
from typing import Any

import jax

from parity.io import quick_compilation

LEVEL = 1  # at 0 a convolution in float64 takes longer than compiling it for 1


def compile_quickly(trainer: Any) -> None:
    """Make a `jax_impl.train.Trainer` compile fast; equal trainers share compiled programs."""
    trainer._program = _quick(trainer._program)


@functools.lru_cache(maxsize=16)
def _quick(program: Any) -> Any:
    return program._replace(step=Quick(program.step))


class Quick:
    """A jitted function, compiled once for each sort of arguments."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.compiled: dict[Any, Any] = {}

    def __call__(self, *args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        key = tree, tuple((x.shape, x.dtype) for x in leaves)
        if key not in self.compiled:
            options = quick_compilation.options(LEVEL)
            self.compiled[key] = self.function.lower(*args).compile(compiler_options=options)
        return self.compiled[key](*args)
