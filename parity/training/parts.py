"""Batches, progress, and the processes that train together, as the loop of a run knows them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol

from parity.spec.training.trainer import Batch

Batches = Generator[Batch, None, None]
Progress = Callable[[int, int, str], None]


class ProcessGroup(Protocol):
    """The processes that train together; see `torch_impl.parallel.Group`, `jax_impl.parallel`."""

    def maximum(self, number: int) -> int:
        """The largest number that any process gives; each waits for all."""

    def broadcast(self, value: Any) -> Any:
        """What process 0 gives; the others wait for it."""

    def all_gather(self, value: Any) -> list[Any]:
        """What every process gives, in their order; each waits for all."""


class SingleProcess:
    """One process alone."""

    def maximum(self, number: int) -> int:
        return number

    def broadcast(self, value: Any) -> Any:
        return value

    def all_gather(self, value: Any) -> list[Any]:
        return [value]
