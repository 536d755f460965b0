"""What tests of `parity.io.background` share."""

from __future__ import annotations

import threading

PATIENCE = 20  # seconds, where something would otherwise wait for ever
BRIEFLY = 0.1  # seconds, in which nothing may happen


def threads() -> list[str]:
    """Return the names of the threads of `parity.io.background` that are there."""
    return [t.name for t in threading.enumerate() if t.name.startswith(("ahead", "behind"))]
