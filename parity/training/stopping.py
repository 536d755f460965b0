"""A run that is asked to stop: it ends its step, and leaves a checkpoint to go on from."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether somebody has asked.

    Attributes:
        asked: The signal, or 0. The second one is obeyed at once.
    """

    def __init__(self) -> None:
        self.asked = 0

    @property
    def status(self) -> int:
        """The exit status that says so, as shells have it."""
        return 128 + self.asked

    @contextlib.contextmanager
    def listening(self) -> Iterator[Stop]:
        """Catch signals; only a main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.asked:
            raise KeyboardInterrupt
        self.asked = number
