"""Timing of several functions in turn, so that other load on the machine affects all alike."""

from __future__ import annotations

import time
from collections.abc import Callable

WARM_UP = 2  # turns that are not counted: the first one compiles


def in_turn(
    timed: dict[str, Callable[[], object]],
    runs: int,
    progress: Callable[[str], None] = lambda _: None,
    first_calls: dict[str, float] | None = None,
) -> dict[str, list[float]]:
    """Call each function once a turn.

    Args:
        timed: Name -> what is timed; it waits for its result.
        runs: Turns that are counted, after `WARM_UP` that are not.
        progress: Called with what is done next.
        first_calls: Filled with name -> seconds of the first call, in which all is compiled.

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
            took = time.perf_counter() - start
            if counted:
                seconds[name].append(took)
            elif turn == 0 and first_calls is not None:
                first_calls[name] = took
    return seconds
