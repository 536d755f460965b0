"""Types that the training loop uses: batches, progress, and groups of processes."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol

from parity.spec.training.trainer import Batch

Batches = Generator[Batch, None, None]
Progress = Callable[[int, int, str], None]


class ProcessGroup(Protocol):
    """The processes that train together; see `torch_impl.parallel.Group`, `jax_impl.parallel`."""

    def maximum(self, number: int) -> int:
        """Return the largest of all processes' numbers; waits for all."""

    def broadcast(self, value: Any) -> Any:
        """Return process 0's value on every process; waits for all."""

    def all_gather(self, value: Any) -> list[Any]:
        """Return every process's value, in order of rank; waits for all."""


class SingleProcess:
    """A process group with a single process."""

    def maximum(self, number: int) -> int:
        return number

    def broadcast(self, value: Any) -> Any:
        return value

    def all_gather(self, value: Any) -> list[Any]:
        return [value]
