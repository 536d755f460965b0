"""Making a plan's tensors, with a limit on what lies in memory at a time."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from parity.spec.errors import InputError
from weights_convert.hashes import begun
from weights_convert.streaming.plan import Plan, Step, Tensor, Unit
from weights_convert.streaming.safetensors_shards import blocks
from weights_convert.streaming.source import Source

Used = TypeVar("Used")

MEMORY = 3 << 28  # bytes of tensors that are being converted at a time, unless one takes more


class Budget:
    """Bytes that may be in use at a time; what takes more has to be alone."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """Wait until there are so many bytes, and take them."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + count <= self._limit)
            self._used += count
        try:
            yield
        finally:
            with self._changed:
                self._used -= count
                self._changed.notify_all()


@dataclasses.dataclass(frozen=True)
class Work:
    """What all writers need.

    Attributes:
        source: Where tensors are read.
        plan: What is made of them.
        workers: How many files are written at once.
        budget: Of memory.
        progress: Called with a description of the next action.
    """

    source: Source
    plan: Plan
    workers: int
    budget: Budget
    progress: Callable[[str], None]

    def each(self, unit: Unit, use: Callable[[str, np.ndarray], Used]) -> dict[str, Used]:
        """Make each tensor of a unit, and return by its name what a function says of it.

        No tensor outlives its call, unless the function keeps it.
        """
        found = {}
        for step, names in unit:
            with self.budget.taken(self._cost(step)):
                arrays = self._apply(step)
                for name in names:
                    found[name] = use(name, arrays.pop(name))
                del arrays
        return found

    def sha256s(self, unit: Unit) -> dict[str, str]:
        """Make each tensor of a unit, and return its hash."""
        return self.each(unit, lambda name, array: sha256(array))

    def _cost(self, step: Step) -> int:
        read = sum(self.source.tensors[name].nbytes for name in step.sources)
        return read + sum(tensor.nbytes for tensor in step.made.values())

    def _apply(self, step: Step) -> dict[str, np.ndarray]:
        arrays = dict(step.make({name: self.source.load(name) for name in step.sources}))
        for name, tensor in step.made.items():
            array = arrays[name]
            if Tensor(array.shape, array.dtype.name) != tensor:
                found = Tensor(array.shape, array.dtype.name)
                raise InputError(f"the rules made {found} of {name}, expected {tensor}")
        return arrays


def sha256(array: np.ndarray) -> str:
    """Return a tensor's hash, as `weights_convert.hashes.tensor_sha256s` does, block by block."""
    digest = begun(array.dtype.name, array.shape)
    for block in blocks(array):
        digest.update(block)
    return digest.hexdigest()


def different(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Return the names whose hashes differ, or that only one has."""
    names = [*expected, *(n for n in found if n not in expected)]
    return [name for name in names if found.get(name) != expected.get(name)]
