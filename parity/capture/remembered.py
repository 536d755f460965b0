"""A memory of a few things, that threads may share."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """A dictionary that forgets what was put into it first, where it would hold too much.

    Args:
        most: How many entries it holds.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[K, V] = {}
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """Return what was put there; None where nothing was, or it is forgotten."""
        with self._lock:
            return self._held.get(key)

    def put(self, key: K, value: V) -> None:
        """Remember a value, as the latest."""
        with self._lock:
            self._held.pop(key, None)
            while len(self._held) >= self._most:
                del self._held[next(iter(self._held))]
            self._held[key] = value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._held.clear()
