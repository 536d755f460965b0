"""How often Python looks for garbage that reference counts do not free."""

from __future__ import annotations

import gc

# Python's own are 700, 10 and 10. Tracing makes millions of small objects, few of which are in
# cycles: with Python's numbers, a tenth to a quarter of tracing an ENet went into looking for them.
THRESHOLDS = (20_000, 20, 20)


def collect_rarely() -> None:
    """Look for garbage less often, for the whole process; for a program, not for a library."""
    gc.set_threshold(*THRESHOLDS)
