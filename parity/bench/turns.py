"""Timing of several functions in turn, so that other load on the machine affects all alike."""

from __future__ import annotations

import time
from collections.abc import Callable

WARM_UP = 2  # turns that are not counted: the first one compiles


def in_turn(
    timed: dict[str, Callable[[], object]],
    runs: int,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Call each function once a turn.

    Args:
        timed: Name -> what is timed; it waits for its result.
        runs: Turns that are counted, after `WARM_UP` that are not.
        progress: Called with what is done next.

    Returns:
        Name -> seconds of each run that is counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(runs + WARM_UP):
        counted = turn >= WARM_UP
        first = "first run, in which all is compiled" if turn == 0 else "warming up"
        for name, call in timed.items():
            progress(f"{name}: {f'run {turn + 1 - WARM_UP} of {runs}' if counted else first}")
            start = time.perf_counter()
            call()
            if counted:
                seconds[name].append(time.perf_counter() - start)
    return seconds
