"""How the threads by which PyTorch computes wait for one another.

Each operation is divided among OpenMP's threads, and ends when the last is done. GNU's OpenMP,
which PyTorch's wheels bring, lets the others spin meanwhile, for milliseconds, on a core of their
own. Where another process wants that core, the system stops one of the threads, perhaps the one
that still has work, and hundreds of operations of a forward pass each wait for it.
"""

from __future__ import annotations

import os
import sys

# Each says how threads wait, to one of the OpenMP libraries or to several.
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


def wait_asleep_if_busy() -> None:
    """Have threads of this process and its children sleep while they wait, if cores are wanted.

    On an idle machine spinning is faster, so nothing is set there, nor where one of `SETTINGS` is,
    nor where PyTorch is imported already, which reads them then.
    """
    if "torch" in sys.modules or any(name in os.environ for name in SETTINGS):
        return
    if is_busy():
        os.environ["OMP_WAIT_POLICY"] = "passive"


def is_busy() -> bool:
    """Return whether more processes wanted to run in the last minute than there are cores."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1)
