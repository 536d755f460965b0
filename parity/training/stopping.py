"""Stopping a run on request: it finishes its step and writes a checkpoint to resume from."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from parity.io.interrupts import SIGNALS, watched

ANSWER = "parity train: finishing the step and writing a checkpoint; Ctrl-C again stops at once"
STOPPED = "parity train: stopped: "  # begins the line on a loss or gradient that is not finite


class Stop:
    """A request to stop, by a signal.

    Attributes:
        asked: The signal, or 0. The second one ends the process at once.

    Args:
        answers: Whether to acknowledge the first signal on standard error; of several processes,
            only one does.
    """

    def __init__(self, answers: bool = True) -> None:
        self.asked, self.answers = 0, answers

    @property
    def status(self) -> int:
        """Return the exit status for the signal, as in shells."""
        return 128 + self.asked

    @contextlib.contextmanager
    def listening(self) -> Iterator[Stop]:
        """Catch signals; only a main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        try:
            with watched(ANSWER if self.answers else ""):
                yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.asked = self.asked or number
