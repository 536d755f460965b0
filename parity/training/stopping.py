"""A run that is asked to stop: it ends its step, and leaves a checkpoint to go on from."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from parity.io.interrupts import SIGNALS, watched

ANSWER = "parity train: finishing the step and writing a checkpoint; Ctrl-C again stops at once"


class Stop:
    """Whether somebody has asked.

    Attributes:
        asked: The signal, or 0. The second one ends the process at once.

    Args:
        answers: Whether the first one is answered on standard error; where one process speaks for
            several, only it does.
    """

    def __init__(self, answers: bool = True) -> None:
        self.asked, self.answers = 0, answers

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
            with watched(ANSWER if self.answers else ""):
                yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.asked = self.asked or number
