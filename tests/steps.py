"""Changes that a process makes to the file system, counted; before one of them it may be killed."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

# Python's names for such changes; `ctypes.dlsym` comes before two paths are exchanged.
CHANGES = (
    *("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate"),
    "ctypes.dlsym",
)


class Steps:
    """Counts this process's changes from now on.

    Args:
        fatal: The process kills itself before this one, counted from 1; never if 0.

    Attributes:
        counted: How many there were.
    """

    def __init__(self, fatal: int = 0) -> None:
        self.counted, self.fatal = 0, fatal
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        reads = event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event in CHANGES and not reads:
            self.counted += 1
            if self.counted == self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)
