"""Batches, progress, and the processes that train together, as the loop of a run knows them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol

from parity.spec.training.trainer import Batch

Batches = Generator[Batch, None, None]
Progress = Callable[[int, int, str], None]


class Others(Protocol):
    """The processes that train together; see `torch_impl.parallel.Group`, `jax_impl.parallel`."""

    def most(self, number: int) -> int:
        """The largest number that any process gives; each waits for all."""

    def told(self, value: Any) -> Any:
        """What process 0 gives; the others wait for it."""

    def each(self, value: Any) -> list[Any]:
        """What every process gives, in their order; each waits for all."""


class Nobody:
    """One process alone."""

    def most(self, number: int) -> int:
        return number

    def told(self, value: Any) -> Any:
        return value

    def each(self, value: Any) -> list[Any]:
        return [value]
